"""make results: its runs are ones that can be, what is done is not done again, and the table says what was reached."""

import json
import shlex
import subprocess
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir

from vae.config.schema import CONF, validate

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

    class StandIn:
        def __init__(self, command, cwd):
            assert (command[:2], cwd) == ([sys.executable, "train.py"], tmp_path)
            self.command = command[2:]
            begun.append(self.command)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self):
            folder = tmp_path / self.command[-1].partition("=")[2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.csv").write_text("step,epoch\n5,\n12,1\n24,2\n")
            if self.command[0] == "experiment=b":
                return ending(folder)
            values = {"log_px": -90.123, "log_px_se": 0.25, "elbo": -95.5, "active_units": 7}
            (folder / "summary.json").write_text(json.dumps({f"test/{name}": value for name, value in values.items()}))
            return 0

    def ending(folder):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        return 130

    monkeypatch.setattr(subprocess, "Popen", StandIn)
    return begun


def folders(tmp_path):
    return sorted((tmp_path / "outputs" / "results" / "cpu").iterdir())


def test_runs_are_made_once_and_what_was_cut_off_goes_on(budget, tmp_path):
    assert results.main("cpu") == 130
    table = (tmp_path / "outputs" / "results" / "cpu.md").read_text()
    assert "| `experiment=a x=1` | log_px | -86.76 | -90.12 +- 0.25 | 7 | 2 | 0 min 00 s |" in table
    assert "| `experiment=b latent_dim=3` | elbo |  | open |  |  |  |" in table
    a, b = folders(tmp_path)
    (b / "seconds").write_text("100")
    assert results.main("cpu") == 0
    assert budget == [
        ["experiment=a", "x=1", f"hydra.run.dir={a}"],
        ["experiment=b", "latent_dim=3", f"hydra.run.dir={b}"],
        [f"resume={b}"],
    ]
    table = (tmp_path / "outputs" / "results" / "cpu.md").read_text()
    assert "| `experiment=b latent_dim=3` | elbo |  | -95.50 | 7 | 2 | 1 min 40 s |" in table
    assert results.main("cpu") == 0
    assert len(budget) == 3


def test_what_was_stopped_before_its_first_checkpoint_begins_anew(budget, tmp_path):
    results.main("cpu")
    b = folders(tmp_path)[1]
    (b / "checkpoints" / "last.ckpt").unlink()
    results.main("cpu")
    assert budget[-1] == ["experiment=b", "latent_dim=3", f"hydra.run.dir={b}"]


def test_another_budget_is_another_run(budget, tmp_path):
    results.main("cpu")
    rows = yaml.safe_load((tmp_path / "benchmarks" / "results.yaml").read_text())
    rows[0]["cpu"] = "x=2"
    (tmp_path / "benchmarks" / "results.yaml").write_text(yaml.safe_dump(rows))
    results.main("cpu")
    assert budget[2][:2] == ["experiment=a", "x=2"]


def test_a_recipe_that_fails_does_not_stop_the_others(budget, tmp_path, monkeypatch):
    wait = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", lambda self: 2 if self.command[0] == "experiment=a" else wait(self))
    (tmp_path / "outputs" / "results").mkdir(parents=True)
    assert results.main("cpu") == 130
    assert [command[0] for command in budget] == ["experiment=a", "experiment=b"]


def test_a_budget_there_is_not(capsys):
    assert results.main("lots") == 2
    assert "BUDGET=lots: expected cpu or full" in capsys.readouterr().err
