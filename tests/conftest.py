import logging
import os
import sys
from pathlib import Path

import pytest

import train

BARS = [
    "dataset._target_=bars.Bars",
    "dataset.val_size=60",
    "batch_size=20",
    "hidden_size=16",
    "latent_dim=3",
]
SHORT = ["trainer.max_epochs=2", "test.K=4", "log_every_n_steps=5"]


@pytest.fixture(autouse=True)
def _nobody_s_own_settings(monkeypatch):
    """No test reads or writes the images, or uses the W&B settings, of whoever runs it."""
    for name in [name for name in os.environ if name == "VAE_DATA_DIR" or name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("vae.experiment.LOADED", {})


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run train.py's command line in an empty folder, on bars, without a tracker; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, defaults=(*BARS, *SHORT, "logger=csv")):
        monkeypatch.setattr(sys, "argv", ["train.py", *defaults, *arguments])
        before = set(logging.root.handlers)
        try:
            code = train.cli()
        except SystemExit as stop:
            code = stop.code
        for handler in set(logging.root.handlers) - before:
            logging.root.removeHandler(handler)  # Hydra's, which would write to this test's console from the next
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def runs(tmp_path):
    """The folders of finished runs, oldest first."""
    return lambda: sorted(path.parent for path in Path(tmp_path, "outputs").rglob("summary.json"))
