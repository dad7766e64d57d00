"""make results: its runs are ones that can be, what is done is not done again, and the table says what was reached."""

import json
import shlex
import subprocess
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir

from vae.config import CONF, validate

ROOT = CONF.parent
sys.path.append(str(ROOT / "benchmarks"))
import results  # noqa: E402

RECIPES = yaml.safe_load((ROOT / "benchmarks" / "results.yaml").read_text())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe["run"])
def test_its_runs_compose_at_both_budgets(recipe):
    for arguments in (recipe["run"], f"{recipe['run']} {recipe['cpu']}"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            validate(compose("config", shlex.split(arguments)))


@pytest.fixture
def budget(tmp_path, monkeypatch):
    """A budget of two runs in an empty folder, of which the second is cut off when it is first begun."""
    (tmp_path / "benchmarks").mkdir()
    rows = [
        {"run": "experiment=a", "cpu": "x=1", "metric": "test/log_px", "expected": -86.76},
        {"run": "experiment=b latent_dim=3", "cpu": "", "metric": "test/elbo"},
    ]
    (tmp_path / "benchmarks" / "results.yaml").write_text(yaml.safe_dump(rows))
    monkeypatch.setattr(results, "ROOT", tmp_path)
    begun = []

    def stand_in(command, cwd, check):
        assert (command[:2], cwd, check) == ([sys.executable, "train.py"], tmp_path, True)
        begun.append(command[2:])
        folder = tmp_path / command[-1].partition("=")[2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.csv").write_text("step,epoch\n5,\n12,1\n24,2\n")
        if command[2] == "experiment=b":
            (folder / "checkpoints").mkdir()
            (folder / "checkpoints" / "last.ckpt").touch()
            raise subprocess.CalledProcessError(130, command)
        values = {"log_px": -90.123, "log_px_se": 0.25, "elbo": -95.5, "active_units": 7}
        (folder / "summary.json").write_text(json.dumps({f"test/{name}": value for name, value in values.items()}))

    monkeypatch.setattr(subprocess, "run", stand_in)
    return begun


def test_runs_are_made_once_and_what_was_cut_off_goes_on(budget, tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        results.main("cpu")
    table = (tmp_path / "outputs" / "results" / "cpu.md").read_text()
    assert "| `experiment=a x=1` | log_px | -86.76 | -90.12 +- 0.25 | 7 | 2 | 0 min 00 s |" in table
    assert "| `experiment=b latent_dim=3` | elbo |  | open |  |  |  |" in table
    folders = [tmp_path / "outputs" / "results" / "cpu" / name for name in ("a", "b_latent_dim-3")]
    (folders[1] / "seconds").write_text("100")
    assert results.main("cpu") == 0
    assert budget == [
        ["experiment=a", "x=1", f"hydra.run.dir={folders[0]}"],
        ["experiment=b", "latent_dim=3", f"hydra.run.dir={folders[1]}"],
        [f"resume={folders[1]}"],
    ]
    table = (tmp_path / "outputs" / "results" / "cpu.md").read_text()
    assert "| `experiment=b latent_dim=3` | elbo |  | -95.50 | 7 | 2 | 1 min 40 s |" in table
    assert results.main("cpu") == 0
    assert len(budget) == 3


def test_a_budget_there_is_not(capsys):
    assert results.main("lots") == 2
    assert "BUDGET=lots: expected cpu or full" in capsys.readouterr().err
