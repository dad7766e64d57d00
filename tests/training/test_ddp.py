"""Several processes are one: the same steps, the same numbers, one end."""

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
from test_train import ROOT, rows, same, timeless, weights

from vae.model import objectives

CLOCK = {"images_per_second", "seconds"}


DDP = [*BARS, *SHORT, "logger=csv", "trainer=ddp"]


def start(folder, *arguments):
    """train.py as a process, and the leader of a group, in this folder."""
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
    """(exit code, what was said)."""
    try:
        said, _ = process.communicate(timeout=100)
    finally:
        process.kill()
    return process.returncode, said


WITNESS = ["objective._target_=ddp_worker.Witness", "trainer.max_epochs=4"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of two processes, in that in which it was started."""
    folder = tmp_path_factory.mktemp("whole")
    code, said = finish(start(folder, *DDP, *WITNESS, "hydra.run.dir=run"))
    assert code == 0, said
    return folder / "run"


def seen(folder, rank):
    """The images of each step of a `ranks.Witness`, and their noise, without those of the check before the run."""
    with (folder / f"seen_{rank}").open("rb") as file:
        found = []
        while file.peek():
            found.append(pickle.load(file))
    return found[1:]


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def close(one, two, **tolerance):
    """Are these records of the same steps and columns, and the values close?"""
    for a, b in zip(one, two, strict=True):
        a, b = ({name: value for name, value in row.items() if name not in CLOCK} for row in (a, b))
        assert b == pytest.approx(a, **tolerance)


def test_a_sweep_gives_the_numbers_of_one_process_also_for_uneven_batches(cli, tmp_path):
    """The last batch has 3 images, of which the processes have 2 and 1; or 1 and none."""
    sweep = [
        "-m",
        "batch_size=79,239",
        "objective=autoencoder",
        "gradient_clip_val=2.0",
        "hydra.sweep.subdir=${batch_size}",
    ]
    assert cli(*sweep, "hydra.sweep.dir=outputs/alone")[0] == 0
    code, said = finish(start(tmp_path, *DDP, *sweep, "hydra.sweep.dir=outputs/together"))
    assert code == 0, said
    assert said.count("epoch   2") == said.count("test, over") == 2
    assert "arning" not in said
    assert files(Path("outputs/alone")) == files(Path("outputs/together"))
    assert len(list(tmp_path.iterdir())) == 2  # outputs and data
    for size in ("79", "239"):
        one, two = Path("outputs/alone", size), Path("outputs/together", size)
        torch.testing.assert_close(weights(two), weights(one), atol=1e-5, rtol=0)
        torch.testing.assert_close(weights(two, "best"), weights(one, "best"), atol=1e-5, rtol=0)
        close(rows(one), rows(two), rel=1e-5)
        summary = json.loads((one / "summary.json").read_text())
        assert json.loads((two / "summary.json").read_text()) == pytest.approx(summary, rel=1e-5)


def test_the_processes_share_the_images_and_not_the_noise(cli, whole, tmp_path, runs):
    assert cli(*WITNESS)[0] == 0
    alone, first, second = seen(tmp_path, "alone"), seen(whole.parent, 0), seen(whole.parent, 1)
    assert len(alone) == len(first) == len(second) == 48
    for (x, _), (x0, _), (x1, _) in zip(alone, first, second, strict=True):
        assert np.array_equal(x[0::2], x0)
        assert np.array_equal(x[1::2], x1)
    drawn = [np.concatenate([noise.ravel() for _, noise in rank]) for rank in (first, second)]
    assert abs(np.corrcoef(*drawn)[0, 1]) < 0.13  # of 1440 pairs, 5 standard errors
    assert len(np.unique(np.concatenate(drawn))) > 2870
    (one,) = runs()
    close(rows(one), rows(whole), rel=0.1, abs=0.3)


def test_the_mean_over_a_batch_is_that_of_all_its_parts(monkeypatch):
    """As free bits need it; here, of 7 and 3 images, each part with the sums of the other."""
    x = torch.arange(20.0).view(10, 2).requires_grad_()
    (x.mean(0).square() / 2).sum().backward()
    whole, x.grad = x.grad, None
    parts = x[:7], x[7:]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for part, other in (parts, parts[::-1]):
        monkeypatch.setattr(
            torch.distributed, "all_reduce", lambda sums, o=other: sums.add_(torch.tensor([*o.sum(0).tolist(), len(o)]))
        )
        mean = objectives.batch_mean(part)
        torch.testing.assert_close(mean, x.mean(0))
        (len(part) / 10 * mean.square() / 2).sum().backward()
    torch.testing.assert_close(x.grad, whole)


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [("Nan", 2, "diverged at step 8: the objective is not finite"), ("Crash", 1, "of the second process")],
)
def test_what_ends_one_process_ends_all(how, code, words, tmp_path):
    ended, said = finish(start(tmp_path, *DDP, f"objective._target_=ddp_worker.{how}"))
    assert ended == code
    assert words in said
    assert "gloo" not in said
    assert how == "Crash" or said.count("\n") == 2  # and the line on the model's size
    assert len(list(tmp_path.rglob("metrics.csv"))) == 1


def descendants(pid):
    """What tells the end of each process below this one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [os.pidfd_open(int(child)) for child in children] + [fd for c in children for fd in descendants(c)]


def stop(process, when, send, signum):
    """Send a signal when this is said; what was said, once all processes have ended."""
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(when):
            below = descendants(process.pid)
            send(process.pid, signum)
    process.wait(60)
    assert len(below) >= 2
    for end in below:
        assert select.select([end], [], [], 60)[0]
        os.close(end)
    return said


def test_a_run_stopped_and_resumed_leaves_no_process_and_ends_in_the_same_weights(whole, tmp_path):
    """By Ctrl-C, sent to the group as a terminal does; then by what leaves the processes without who started them."""
    folder = tmp_path / "run"
    process = start(tmp_path, *DDP, *WITNESS, "hydra.run.dir=run")
    ways = (os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGKILL, -9)
    for when, (send, signum, code) in zip(("epoch   1", "epoch   2"), ways, strict=True):
        said = stop(process, when, send, signum)
        assert process.returncode == code, "".join(said)
        assert "Traceback" not in "".join(said)
        assert "python train.py resume=" in said[-1]
        checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] > 12 * int(when[-1])
        assert not (folder / "summary.json").exists()
        process = start(tmp_path, "resume=run")
    code, said = finish(process)
    assert code == 0, said
    for name in ("last", "best"):
        assert same(weights(folder, name), weights(whole, name))
    assert (folder / "summary.json").read_text() == (whole / "summary.json").read_text()
    assert timeless(folder) == timeless(whole)
