"""trainer=ddp: several processes give the numbers of one, and stop together."""

import json
import os
import pickle
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BARS, SHORT
from run_outputs import ROOT, load_checkpoint, load_weights, read_metrics, same_weights, without_times

from vae.model import objectives

pytestmark = pytest.mark.slow

TIMES = {"images_per_second", "seconds"}
DDP = [*BARS, *SHORT, "logger=csv", "trainer=ddp"]


def start(folder, *arguments):
    """Start train.py in a new process and process group, in this folder."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def finish(process):
    """Wait for a process; return (exit code, output)."""
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, output


RECORDER = ["objective._target_=ddp_worker.Recorder", "trainer.max_epochs=4"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run with two processes."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    code, output = finish(start(folder, *DDP, *RECORDER, "hydra.run.dir=run"))
    assert code == 0, output
    return folder / "run"


def recorded_steps(folder, rank):
    """The (images, noise) of each step in a process, from ddp_worker.Recorder, without the check before training."""
    steps = []
    with (folder / f"steps_{rank}").open("rb") as file:
        while file.peek():
            steps.append(pickle.load(file))
    return steps[1:]


def relative_paths(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def assert_rows_close(one, two, **tolerance):
    """Check that two lists of metrics have the same steps and columns, and close values."""
    for a, b in zip(one, two, strict=True):
        a, b = ({name: value for name, value in row.items() if name not in TIMES} for row in (a, b))
        assert b == pytest.approx(a, **tolerance)


def test_a_sweep_gives_the_numbers_of_one_process_also_with_uneven_batches(cli, tmp_path):
    """The last batch has 3 images, 2 and 1 in the two processes; or 1 image, which both processes take.

    The convolutions of torch do not support an empty batch.
    """
    sweep = [
        "-m",
        "batch_size=148,298",
        "dataset.val_size=1",
        "architecture=conv",
        "architecture.encoder.channels=[4,6]",
        "objective=autoencoder",
        "gradient_clip_val=2.0",
        "hydra.sweep.subdir=${batch_size}",
    ]
    assert cli(*sweep, "hydra.sweep.dir=outputs/single")[0] == 0
    code, output = finish(start(tmp_path, *DDP, *sweep, "hydra.sweep.dir=outputs/ddp"))
    assert code == 0, output
    assert output.count("epoch   2") == output.count("test metrics") == 2
    assert "arning" not in output
    assert relative_paths(Path("outputs/single")) == relative_paths(Path("outputs/ddp"))
    assert len(list(tmp_path.iterdir())) == 2  # outputs and data
    for size in ("148", "298"):
        one, two = Path("outputs/single", size), Path("outputs/ddp", size)
        torch.testing.assert_close(load_weights(two), load_weights(one), atol=1e-5, rtol=0)
        torch.testing.assert_close(load_weights(two, "best"), load_weights(one, "best"), atol=1e-5, rtol=0)
        assert_rows_close(read_metrics(one), read_metrics(two), rel=1e-5)
        summary = json.loads((one / "summary.json").read_text())
        assert json.loads((two / "summary.json").read_text()) == pytest.approx(summary, rel=1e-5)


def test_labels_go_with_their_images_to_each_process(cli, tmp_path):
    """In the batches of M2, the images of the second process have no label."""
    sweep = ["-m", "objective=elbo,m2", "conditional=true", "posterior._target_=ddp_worker.Noiseless"]
    sweep += ["batch_size=148", "dataset.val_size=1", "hydra.sweep.subdir=${hydra:runtime.choices.objective}"]
    assert cli(*sweep, "hydra.sweep.dir=outputs/single")[0] == 0
    code, output = finish(start(tmp_path, *DDP, *sweep, "hydra.sweep.dir=outputs/ddp"))
    assert code == 0, output
    for objective in ("elbo", "m2"):
        one, two = Path("outputs/single", objective), Path("outputs/ddp", objective)
        torch.testing.assert_close(load_weights(two), load_weights(one), atol=1e-5, rtol=0)
        assert_rows_close(read_metrics(one), read_metrics(two), rel=1e-5)
    assert "train/error" in read_metrics(one)[0]


def test_one_process_is_the_only_one_whatever_the_environment_says(tmp_path, monkeypatch):
    """As in the second task of `srun --ntasks=2 python train.py`, or in a notebook that torchrun has started."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID", "GROUP_RANK"):
        monkeypatch.setenv(name, "1")
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "2")
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "vae", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    code, output = finish(start(tmp_path, *BARS, *SHORT, "logger=csv", "hydra.run.dir=run"))
    assert code == 0, output
    assert "arning" not in output
    for name in ("metrics.csv", "summary.json", "figures/samples.png", "checkpoints/best.ckpt"):
        assert (tmp_path / "run" / name).exists()
    code, output = finish(start(tmp_path, *DDP))
    assert (code, output.count("\n")) == (2, 1)
    assert "expected one Slurm task" in output
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")  # not in an interactive job or a batch script, of one process
    code, output = finish(start(tmp_path, *DDP, "hydra.run.dir=ddp"))
    assert code == 0, output
    assert (tmp_path / "ddp" / "summary.json").exists()


def test_processes_split_the_images_and_have_independent_noise(cli, uninterrupted, tmp_path, runs):
    assert cli(*RECORDER)[0] == 0
    single = recorded_steps(tmp_path, "single")
    first, second = (recorded_steps(uninterrupted.parent, rank) for rank in (0, 1))
    assert len(single) == len(first) == len(second) == 48
    for (x, _), (x0, _), (x1, _) in zip(single, first, second, strict=True):
        assert np.array_equal(x[0::2], x0)
        assert np.array_equal(x[1::2], x1)
    noise = [np.concatenate([noise.ravel() for _, noise in steps]) for steps in (first, second)]
    assert abs(np.corrcoef(*noise)[0, 1]) < 0.13  # 5 standard errors, with 1440 pairs
    assert len(np.unique(np.concatenate(noise))) > 2870
    (one,) = runs()
    assert_rows_close(read_metrics(one), read_metrics(uninterrupted), rel=0.1, abs=0.3)


def test_the_whole_batch_has_the_images_of_all_processes_and_their_gradient(monkeypatch):
    """Here the processes have 7 and 3 images; all_reduce adds the numbers of the other process."""
    x = torch.arange(20.0).view(10, 2).requires_grad_()
    x.T.cov().square().sum().backward()
    expected, x.grad = x.grad, None
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    for rank, rows in enumerate((slice(0, 7), slice(7, 10))):
        others = x.detach().clone()
        others[rows] = 0
        sent = iter([torch.tensor([[0.0, 3.0], [7.0, 0.0]][rank]), others])
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "all_reduce", lambda sums, sent=sent: sums.add_(next(sent)))
        batch = objectives.whole_batch(x[rows])
        torch.testing.assert_close(batch, x)
        (len(x[rows]) / 10 * batch.T.cov().square().sum()).backward()
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [("Nan", 2, "diverged at step 8: the objective is not finite"), ("Crash", 1, "in the second process")],
)
def test_an_error_in_one_process_stops_all(failure, code, message, tmp_path):
    exit_code, output = finish(start(tmp_path, *DDP, f"objective._target_=ddp_worker.{failure}"))
    assert exit_code == code
    assert message in output
    assert "gloo" not in output
    assert failure == "Crash" or output.count("\n") == 2  # the error, and the line with the size of the model
    assert len(list(tmp_path.rglob("metrics.csv"))) == 1


def descendants(pid):
    """A file descriptor for each process below this one; it becomes readable when the process exits."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [os.pidfd_open(int(child)) for child in children] + [fd for c in children for fd in descendants(c)]


def stop(process, prefix, send, signum):
    """Send a signal after a line with this prefix; return the output when all processes have exited."""
    output = []
    for line in process.stdout:
        output.append(line)
        if line.startswith(prefix):
            children = descendants(process.pid)
            send(process.pid, signum)
    process.wait(60)
    assert len(children) >= 2
    for child in children:
        assert select.select([child], [], [], 60)[0]
        os.close(child)
    return output


def test_a_stopped_run_leaves_no_process_and_gives_the_same_weights_when_resumed(uninterrupted, tmp_path):
    """Stop it by Ctrl-C, sent to the group as a terminal does; then kill the parent of the processes."""
    folder = tmp_path / "run"
    process = start(tmp_path, *DDP, *RECORDER, "hydra.run.dir=run")
    stops = ("epoch   1", os.killpg, signal.SIGINT, 130), ("epoch   2", os.kill, signal.SIGKILL, -9)
    for prefix, send, signum, code in stops:
        output = stop(process, prefix, send, signum)
        assert process.returncode == code, "".join(output)
        assert "Traceback" not in "".join(output)
        assert "python train.py resume=" in output[-1]
        assert load_checkpoint(folder)["global_step"] > 12 * int(prefix[-1])
        assert not (folder / "summary.json").exists()
        process = start(tmp_path, "resume=run", "trust=true")
    code, output = finish(process)
    assert code == 0, output
    for name in ("last", "best"):
        assert same_weights(load_weights(folder, name), load_weights(uninterrupted, name))
    assert (folder / "summary.json").read_text() == (uninterrupted / "summary.json").read_text()
    assert without_times(folder) == without_times(uninterrupted)
