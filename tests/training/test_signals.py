"""Ctrl-C and SIGTERM during training, and before it."""

import os
import signal
import subprocess
import sys
import weakref
from collections import UserList
from pathlib import Path

import pytest
import torch
from conftest import BARS
from run_outputs import ROOT, load_checkpoint, read_metrics

from vae.training.lightning_module import VAEModule


def interrupt_in_a_weakref_callback(*_):
    """Receive Ctrl-C in a weakref callback: Python ignores the SystemExit that the handler raises there."""
    collected = UserList()
    reference = weakref.ref(collected, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del collected
    assert reference() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_weakref_callback_before_training_stops_it(cli, runs, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("vae.training.experiment.gc.enable", interrupt_in_a_weakref_callback)
        assert cli()[0] == 130
    (folder,) = {path.parent for path in Path("outputs").rglob("metrics.csv")}
    assert load_checkpoint(folder)["global_step"] == 10  # the first chunk
    assert cli(f"resume={folder}", defaults=())[0] == 0
    assert runs() == [folder.resolve()]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_weakref_callback_before_the_test_stops_it(cli, runs, monkeypatch):
    monkeypatch.setattr(VAEModule, "on_test_start", interrupt_in_a_weakref_callback)
    assert cli()[0] == 130
    assert not runs()


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_training_with_a_checkpoint(signum, code, tmp_path):
    """The signal goes to every process of the group, as from a terminal or a scheduler."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *BARS, "trainer.max_epochs=500", "logger=wandb"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "WANDB_MODE": "offline", "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    output = []
    for line in process.stdout:
        output.append(line)
        if line.startswith("epoch   3"):
            os.killpg(process.pid, signum)
    assert process.wait(60) == code, "".join(output)
    assert "Traceback" not in "".join(output)
    assert "python train.py resume=" in output[-1]
    (last,) = tmp_path.rglob("last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] > 3 * 12
    assert read_metrics(last.parent.parent)[-1]["step"] <= checkpoint["global_step"]
