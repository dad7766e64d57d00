"""A run with damaged files: what can be saved is, and the rest is one line."""

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from run_outputs import load_weights, read_metrics, same_weights, without_times

from vae.evaluate import __main__ as evaluate
from vae.runs.checkpoint_files import is_intact
from vae.training.sweep import Sweep


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def folder(kept, cli, runs, tmp_path):
    """A copy of a finished run of two epochs, 12 steps each."""
    if not kept.exists():
        assert cli()[0] == 0
        shutil.copytree(runs()[0], kept)
        shutil.copytree(tmp_path / "data", kept.parent / "data")
        shutil.rmtree(tmp_path / "outputs")
    else:
        shutil.copytree(kept.parent / "data", tmp_path / "data")
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


def change_config(folder, key, value):
    path = folder / ".hydra" / "config.yaml"
    cfg = OmegaConf.load(path)
    OmegaConf.update(cfg, key, value)
    OmegaConf.save(cfg, path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


BEYOND_REPAIR = {
    "config.yaml: damaged; expected keys": lambda run: (run / ".hydra" / "config.yaml").write_text(""),
    "config.yaml: line 2: did not find": lambda run: (run / ".hydra" / "config.yaml").write_text("{"),
    "does not match the run's config": lambda run: change_config(run, "latent_dim", 4),
    "does not match the run's config ": lambda run: change_config(run, "hidden_size", [16, 16]),
    "latent_dim=x: expected": lambda run: change_config(run, "latent_dim", "x"),
}


@pytest.mark.parametrize("message", BEYOND_REPAIR)
def test_what_cannot_be_saved_is_one_line(message, folder, cli, module_cli):
    BEYOND_REPAIR[message](folder)
    before = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "train.log"
    }
    for code, _, err in (cli(f"resume={folder}", defaults=()), module_cli(evaluate)(f"run={folder}", "K=2")):
        assert (code, err.count("\n")) == (2, 1)
        assert message.strip() in err
    unchanged = {path: path.stat().st_mtime_ns for path in before}
    assert unchanged == before


@pytest.mark.parametrize("damage", [truncate, lambda path: path.unlink()])
def test_a_lost_best_checkpoint_is_one_line_and_written_again_by_resume(damage, folder, cli, module_cli, caplog):
    """No epoch remains, so the last weights are the best there are."""
    damage(folder / "checkpoints" / "best.ckpt")
    code, _, err = module_cli(evaluate)(f"run={folder}", "K=2")
    assert (code, err.count("\n")) == (2, 1)
    assert "best.ckpt" in err
    code, out, _ = cli(f"resume={folder}", defaults=())
    assert code == 0
    assert "best.ckpt is missing or damaged; the best of the remaining epochs replaces it" in out + caplog.text
    assert is_intact(folder / "checkpoints" / "best.ckpt")
    assert same_weights(load_weights(folder, "best"), load_weights(folder, "last"))
    assert module_cli(evaluate)(f"run={folder}", "K=2")[0] == 0


def test_a_damaged_summary_is_written_again_by_resume(folder, cli, kept):
    (folder / "summary.json").write_text('{"test/elbo": ')
    assert cli(f"resume={folder}", defaults=())[0] == 0
    assert json.loads((folder / "summary.json").read_text()) == json.loads((kept / "summary.json").read_text())


@pytest.mark.parametrize("end", ["\0\0\0\0", "24,x\n", "13,-5"])
def test_a_damaged_end_of_the_metrics_is_dropped_by_resume(end, folder, cli, kept):
    with (folder / "metrics.csv").open("a") as file:
        file.write(end)
    assert cli(f"resume={folder}", defaults=())[0] == 0
    assert without_times(folder) == without_times(kept)


def test_metrics_without_a_header_are_put_aside_by_resume(folder, cli):
    (folder / "metrics.csv").write_bytes(b"\xff\xfe garbage")
    assert cli(f"resume={folder}", defaults=())[0] == 0
    assert (folder / "metrics.csv.damaged").read_bytes() == b"\xff\xfe garbage"
    assert any("test/elbo" in row for row in read_metrics(folder))


@pytest.mark.slow
def test_a_sweep_with_damaged_metrics_ends_with_its_table(cli):
    assert cli("-m", "seed=0,1", "trainer.max_epochs=1", "hydra.sweep.dir=swept")[0] == 0
    (first, _) = sorted(path.parent for path in Path("swept").rglob("summary.json"))
    (first / "metrics.csv").write_bytes(b"\xff\xfe garbage\n")
    code, out, _ = cli("sweep=swept", defaults=())
    assert code == 0
    assert "best run" in out


@pytest.mark.parametrize("content", [b"garbage " * 500, b"SQLite format 3\0" + bytes(2000)])
def test_a_damaged_study_of_a_search_is_one_line(content, tmp_path):
    (tmp_path / "study.db").write_bytes(content)
    sweeper = {"storage": f"sqlite:///{tmp_path}/study.db", "study_name": "mnist"}
    hydra = {"sweep": {"dir": str(tmp_path)}, "sweeper": sweeper, "overrides": {"hydra": [], "task": []}}
    with pytest.raises(SystemExit) as stop:
        Sweep().on_multirun_start(OmegaConf.create({"hydra": hydra}))
    message = str(stop.value.__cause__)  # train.py prints it
    assert (stop.value.code, message.count("\n")) == (2, 0)
    assert message.startswith(f"sqlite:///{tmp_path}/study.db: damaged (")
