"""resume=FOLDER: a run that was stopped and resumed ends with the numbers of an uninterrupted run."""

import json
import math
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import BARS
from run_outputs import load_checkpoint, load_weights, read_metrics, same_weights, without_times
from toy_dataset import WORSE_AT_THE_END

from vae.runs.run_folder import read_run
from vae.runs.run_lock import lock_run

EPOCHS = ["trainer.max_epochs=4"]
DELAYED_COMPILE = [*EPOCHS, "compile=auto"]
STEPS = ["trainer.max_epochs=-1", "trainer.max_steps=45", "prior=vampprior", "patience=9"]


def stopped_run(other):
    """The folder of the run that has no summary yet; `other` is the finished one."""
    (folder,) = {path.parent for path in Path("outputs").rglob("checkpoints")} - {Path(os.path.relpath(other))}
    return folder


@pytest.mark.parametrize(
    ("limit", "stop_after", "by", "code"),
    [
        (EPOCHS, 12, "signal", 130),
        (EPOCHS, 29, "signal", 130),
        ([*EPOCHS, "ema=0.9"], 29, "signal", 130),
        pytest.param([*EPOCHS, "ema=0.9"], 12, "signal", 130, marks=pytest.mark.slow),
        pytest.param([*EPOCHS, "ema=0.9"], 29, "crash", 1, marks=pytest.mark.slow),
        pytest.param(EPOCHS, 29, "crash", 1, marks=pytest.mark.slow),
        pytest.param([*EPOCHS, "compile=true"], 29, "signal", 130, marks=pytest.mark.slow),
        pytest.param(DELAYED_COMPILE, 9, "signal", 130, marks=pytest.mark.slow),
        pytest.param(DELAYED_COMPILE, 12, "signal", 130, marks=pytest.mark.slow),
        pytest.param(DELAYED_COMPILE, 29, "signal", 130, marks=pytest.mark.slow),
        pytest.param(STEPS, 12, "signal", 130, marks=pytest.mark.slow),
        pytest.param(STEPS, 29, "signal", 130, marks=pytest.mark.slow),
        pytest.param(STEPS, 29, "crash", 1, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_gives_the_same_weights(stop_after, by, code, limit, cli, runs, interrupt, monkeypatch):
    """Ctrl-C saves a checkpoint of the current step; after a crash, there is that of the last epoch, of 12 steps."""
    monkeypatch.setattr("vae.training.callbacks.acceleration.MIN_STEPS", 36 if "compile=auto" in limit else math.inf)
    exit_code, out, _ = cli(*limit)
    assert (exit_code, "compiling" in out) == (0, {"compile=auto", "compile=true"} & set(limit) != set())
    (uninterrupted,) = runs()

    def stop():
        if by == "crash":
            sys.exit(1)
        os.kill(os.getpid(), signal.SIGINT)

    with interrupt(stop_after - 1, stop):
        assert cli(*limit)[0] == code
    stopped = stopped_run(uninterrupted)
    assert not (stopped / "summary.json").exists()
    step = load_checkpoint(stopped)["global_step"]
    assert step >= stop_after if by == "signal" else step == 24
    torch.manual_seed(99)
    assert cli(f"resume={stopped}/", defaults=())[0] == 0
    assert same_weights(load_weights(stopped), load_weights(uninterrupted))
    assert same_weights(load_weights(stopped, "best"), load_weights(uninterrupted, "best"))
    assert (stopped / "summary.json").read_text() == (uninterrupted / "summary.json").read_text()
    assert without_times(stopped) == without_times(uninterrupted)


def test_a_run_with_one_chunk_per_epoch_stops_between_epochs(cli, runs, interrupt, monkeypatch):
    monkeypatch.setattr("datamodules.loaders.BATCHES_PER_CHUNK", 100)
    assert cli(*EPOCHS)[0] == 0
    (uninterrupted,) = runs()
    with interrupt(17, lambda: os.kill(os.getpid(), signal.SIGINT)):
        assert cli(*EPOCHS)[0] == 130
    stopped = stopped_run(uninterrupted)
    assert load_checkpoint(stopped)["global_step"] == 24
    assert cli(f"resume={stopped}/", defaults=())[0] == 0
    assert same_weights(load_weights(stopped), load_weights(uninterrupted))
    assert without_times(stopped) == without_times(uninterrupted)


def test_resume_with_a_folder_that_is_not_a_run_is_a_one_line_error(cli, tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    code, _, err = cli(f"resume={tmp_path / 'run'}", defaults=())
    assert (code, err.count("\n")) == (2, 1)
    assert ".hydra/config.yaml" in err
    assert "expected no other key" in cli("resume=run", "seed=1", defaults=())[2]


def test_a_finished_run_can_be_trained_for_longer_with_another_rate(cli, runs):
    assert cli("optimizer/schedule=constant", "trainer.max_epochs=1")[0] == 0
    (folder,) = runs()
    code, out, _ = cli(f"resume={folder}", "trainer.max_epochs=3", "optimizer.lr=0.002", defaults=())
    assert code == 0
    assert "trainer.max_epochs=3 instead of 1; the schedules" in out
    assert "optimizer.lr=0.002 instead of 0.005" in out
    rows = read_metrics(folder)
    assert load_checkpoint(folder)["global_step"] == 3 * 12
    rates = {row["step"]: row["lr"] for row in rows if "lr" in row}
    assert {rate for step, rate in rates.items() if step <= 12} == {0.005}
    assert {rate for step, rate in rates.items() if step > 12} == {0.002}
    run = read_run(folder)
    assert (run.value("trainer.max_epochs"), run.value("optimizer.lr")) == (3, 0.002)
    assert run.overridden_keys.count("trainer.max_epochs") == 1
    assert cli(f"resume={folder}", defaults=())[0] == 0  # the changes are kept
    assert load_checkpoint(folder)["global_step"] == 3 * 12
    code, _, err = cli(f"resume={folder}", "trainer.max_epochs=0", defaults=())
    assert (code, err.count("\n")) == (2, 1)
    assert read_run(folder).value("trainer.max_epochs") == 3


def test_a_new_run_does_not_overwrite_an_old_one(cli, runs):
    cli("hydra.run.dir=outputs/mine")
    (folder,) = runs()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, _, err = cli("hydra.run.dir=outputs/mine", "seed=1")
    assert (code, err.count("\n")) == (2, 1)
    assert "hydra.run.dir" in err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_without_a_checkpoint_starts_from_the_beginning(cli, runs, interrupt):
    """It was killed in its first epoch, after metrics.csv was begun."""
    assert cli("hydra.run.dir=outputs/uninterrupted")[0] == 0
    with interrupt(11, lambda: sys.exit(1)):
        assert cli("hydra.run.dir=outputs/killed")[0] == 1
    assert Path("outputs/killed/metrics.csv").exists()
    assert "resume=outputs/killed" in cli("hydra.run.dir=outputs/killed")[2]
    code, out, _ = cli("resume=outputs/killed", defaults=())
    assert code == 0
    assert "training starts from the beginning" in out
    killed, uninterrupted = runs()
    assert same_weights(load_weights(killed), load_weights(uninterrupted))
    assert without_times(killed) == without_times(uninterrupted)
    assert (killed / "summary.json").read_text() == (uninterrupted / "summary.json").read_text()


def test_a_complete_run_that_is_resumed_keeps_its_record(cli, runs):
    cli()
    (folder,) = runs()
    summary, rows = json.loads((folder / "summary.json").read_text()), read_metrics(folder)
    (folder / "summary.json").write_text(json.dumps(summary | {"test/log_px_K9": -1.0}))
    assert cli(f"resume={folder}", defaults=())[0] == 0
    resumed = read_metrics(folder)
    assert [row["images_seen"] for row in resumed] == [row["images_seen"] for row in rows]
    assert resumed[-1]["seconds"] > resumed[-2]["seconds"]
    assert json.loads((folder / "summary.json").read_text()) == summary | {"test/log_px_K9": -1.0}


def test_results_of_older_weights_are_removed(cli, runs):
    """The run is resumed from its first epoch, so its best weights change."""
    cli("hydra.run.dir=outputs/short")
    (folder,) = runs()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"test/log_px_K9": -1.0}))
    (folder / "checkpoints" / "last-previous.ckpt").replace(folder / "checkpoints" / "last.ckpt")
    assert cli(f"resume={folder}", defaults=())[0] == 0
    assert json.loads((folder / "summary.json").read_text()) == summary


def test_two_processes_do_not_train_in_one_folder(cli, runs):
    cli()
    (folder,) = runs()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with lock_run(folder, "run"):
        for command in ([f"resume={folder}"], [*BARS, f"hydra.run.dir={folder}"]):
            code, out, err = cli(*command, defaults=())
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert "another process is working in this run folder" in err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_resume_with_a_damaged_checkpoint_is_a_one_line_error(cli, runs):
    cli()
    (folder,) = runs()
    checkpoint = folder / "checkpoints" / "last.ckpt"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    checkpoint.with_name("last-previous.ckpt").unlink()
    (folder / "metrics.csv").unlink()
    before = {path.relative_to(folder) for path in folder.rglob("*")}
    code, _, err = cli(f"resume={folder}", defaults=())
    assert (code, err) == (
        2,
        f"resume={folder}: checkpoints/last.ckpt is damaged, and there is no intact last-previous.ckpt\n",
    )
    assert {path.relative_to(folder) for path in folder.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_a_run_whose_last_checkpoint_is_damaged_resumes_from_the_one_before(damage, cli, runs, caplog):
    cli("trainer.max_epochs=3")
    (folder,) = runs()
    before, weights = without_times(folder), load_weights(folder)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    if damage == "truncated":
        checkpoint.write_bytes(content[:-500])
    if damage == "flipped":
        place = content.index(b"data/0") + 300
        checkpoint.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    code, out, err = cli(f"resume={folder}", defaults=())
    assert code == 0
    assert "last.ckpt is missing or damaged; resuming from last-previous.ckpt" in out + err + caplog.text
    assert same_weights(load_weights(folder), weights)
    assert without_times(folder) == before


def test_checkpoints_are_written_beside_their_target_and_an_error_damages_nothing(cli, monkeypatch):
    """Not in the system's temporary folder, which can be another file system, and only whole."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    saved, save = [], torch.save

    def fail_at_the_third(checkpoint, file, **options):
        saved.append(checkpoint)
        file.write(b"half")
        if len(saved) == 3:
            raise OSError(28, "No space left on device", file.name)
        file.seek(0)
        save(checkpoint, file, **options)

    monkeypatch.setattr("vae.training.callbacks.checkpoints.torch.save", fail_at_the_third)
    code, _, err = cli("trainer.max_epochs=3")
    assert (code, err.count("\n")) == (2, 1)
    assert "No space left on device" in err
    (folder,) = Path("outputs").rglob("checkpoints")
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_a_run_of_a_sweep_resumes_after_its_folder_was_moved(cli, runs, tmp_path):
    cli("-m", "seed=0,1", "trainer.max_epochs=5", *WORSE_AT_THE_END)
    (_, folder) = runs()
    before = (folder / "summary.json").read_text()
    moved = tmp_path / "moved" / folder.name
    moved.parent.mkdir()
    folder.rename(moved)
    assert "=" in moved.name
    assert cli(f"resume={moved}", defaults=())[0] == 0
    assert (moved / "summary.json").read_text() == before
    assert not folder.exists()
