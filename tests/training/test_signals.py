"""Ctrl-C and SIGTERM during training."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import BARS
from run_outputs import ROOT, read_metrics

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
