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


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run train.py's command line in an empty folder, on bars, without a tracker; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAE_DATA_DIR", raising=False)

    def run(*arguments, defaults=(*BARS, *SHORT, "logger=csv")):
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "train.py",
                *(a for a in arguments if a == "-m"),
                *defaults,
                *(a for a in arguments if a != "-m"),
            ],
        )
        try:
            code = train.cli()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def runs(tmp_path):
    """The folders of finished runs, oldest first."""
    return lambda: sorted(path.parent for path in Path(tmp_path, "outputs").rglob("summary.json"))
