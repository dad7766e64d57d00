"""make results: its recipes are valid, finished runs are skipped, and the table shows what was reached."""

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
import doc_tables  # noqa: E402
import results  # noqa: E402

RECIPES = yaml.safe_load((ROOT / "benchmarks" / "results.yaml").read_text())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe["run"])
def test_recipes_compose_at_both_budgets(recipe):
    for arguments in (recipe["run"], f"{recipe['run']} {recipe['cpu']}"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            validate(compose("config", shlex.split(arguments)))


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Return the list of commands that are run, for two recipes in an empty folder.

    The first run of the second recipe is interrupted after its first checkpoint.
    """
    (tmp_path / "benchmarks").mkdir()
    recipes = [
        {"run": "experiment=a", "cpu": "x=1", "metric": "test/log_px", "expected": -86.7},
        {"run": "experiment=b latent_dim=3", "cpu": "", "metric": "test/elbo"},
    ]
    (tmp_path / "benchmarks" / "results.yaml").write_text(yaml.safe_dump(recipes))
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(doc_tables, "TABLES", tmp_path / "docs" / "tables")
    commands = []

    class FakeProcess:
        def __init__(self, command, cwd):
            assert (command[:2], cwd) == ([sys.executable, "train.py"], tmp_path)
            self.command = command[2:]
            commands.append(self.command)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self):
            folder = tmp_path / self.command[-1].partition("=")[2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.csv").write_text("step,epoch\n5,\n12,1\n24,2\n")
            if self.command[0] == "experiment=b":
                return interrupt(folder)
            values = {"log_px": -90.123, "log_px_se": 0.25, "elbo": -95.5, "active_units": 7}
            (folder / "summary.json").write_text(json.dumps({f"test/{name}": value for name, value in values.items()}))
            return 0

    def interrupt(folder):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        return 130

    monkeypatch.setattr(subprocess, "Popen", FakeProcess)
    return commands


def run_folders(tmp_path):
    return sorted((tmp_path / "outputs" / "results" / "cpu").iterdir())


def read_table(tmp_path):
    return (tmp_path / "docs" / "tables" / "results_cpu.md").read_text()


def test_finished_runs_are_skipped_and_interrupted_ones_resumed(commands, tmp_path):
    assert results.main("cpu") == 130
    table = read_table(tmp_path)
    assert table.startswith("| `python train.py` | metric | expected | reached | expected - reached | active units |")
    assert "| `experiment=a x=1` | log_px | -86.70 | -90.12 +- 0.25 | 3.42 | 7 | 2 | 0 min 00 s |\n" in table
    assert "| `experiment=b latent_dim=3` | elbo |  | open |  |  |  |  |\n\n" in table
    assert table.endswith(f"{doc_tables.describe_machine()}.\n")
    a, b = run_folders(tmp_path)
    (b / "seconds").write_text("100")
    assert results.main("cpu") == 0
    assert commands == [
        ["experiment=a", "x=1", f"hydra.run.dir={a}"],
        ["experiment=b", "latent_dim=3", f"hydra.run.dir={b}"],
        [f"resume={b}"],
    ]
    assert "| `experiment=b latent_dim=3` | elbo |  | -95.50 |  | 7 | 2 | 1 min 40 s |" in read_table(tmp_path)
    assert results.main("cpu") == 0
    assert len(commands) == 3
    assert (tmp_path / "docs" / "images" / "results_cpu.png").stat().st_size > 0


def test_the_figure_has_one_point_for_each_reached_log_p(tmp_path, monkeypatch):
    points = []
    monkeypatch.setattr("matplotlib.axes.Axes.errorbar", lambda _, *args, **__: points.append(args[:3]))
    rows = [
        ["`experiment=a`", "log_px", "-86.70", "-90.12 +- 0.25"],
        ["`experiment=b`", "log_px", "-80.00", "open"],
        ["`experiment=c`", "log_px", "", "-91.00 +- 0.30"],
        ["`experiment=d`", "elbo", "-99.00", "-98.00"],
    ]
    results.draw_points(rows, tmp_path / "figure.png")
    assert points == [(-86.7, -90.12, 0.25)]


def test_a_run_without_a_checkpoint_starts_again(commands, tmp_path):
    results.main("cpu")
    b = run_folders(tmp_path)[1]
    (b / "checkpoints" / "last.ckpt").unlink()
    results.main("cpu")
    assert commands[-1] == ["experiment=b", "latent_dim=3", f"hydra.run.dir={b}"]


def test_other_arguments_are_another_run(commands, tmp_path):
    results.main("cpu")
    recipes = yaml.safe_load((tmp_path / "benchmarks" / "results.yaml").read_text())
    recipes[0]["cpu"] = "x=2"
    (tmp_path / "benchmarks" / "results.yaml").write_text(yaml.safe_dump(recipes))
    results.main("cpu")
    assert commands[2][:2] == ["experiment=a", "x=2"]


def test_a_failed_run_does_not_stop_the_others(commands, tmp_path, monkeypatch):
    wait = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", lambda self: 2 if self.command[0] == "experiment=a" else wait(self))
    (tmp_path / "outputs" / "results").mkdir(parents=True)
    assert results.main("cpu") == 130
    assert [command[0] for command in commands] == ["experiment=a", "experiment=b"]


def test_an_unknown_budget_is_reported(capsys):
    assert results.main("lots") == 2
    assert "BUDGET=lots: expected cpu or full" in capsys.readouterr().err
