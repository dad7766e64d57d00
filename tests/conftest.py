import logging
import os
import shutil
import sys
from pathlib import Path

import pytest

import train

BARS = [
    "dataset._target_=toy_dataset.Bars",
    "dataset.val_size=60",
    "batch_size=20",
    "hidden_size=16",
    "latent_dim=3",
]
SECONDS = 2.0  # how long the tests let W&B wait
SHORT = ["trainer.max_epochs=2", "test.K=4", "log_every_n_steps=5"]


@pytest.fixture(autouse=True)
def _nobody_s_own_settings(monkeypatch):
    """No test reads or writes the images, or uses the W&B settings, of whoever runs it."""
    for name in [name for name in os.environ if name == "VAE_DATA_DIR" or name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("vae.training.experiment.DATASET_CACHE", {})


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


@pytest.fixture
def isolated_wandb(tmp_path, monkeypatch):
    """Nothing of W&B from whoever runs the tests, nor from the test before."""
    import wandb

    from vae.tracking.loggers import finish

    wandb.teardown()
    home = tmp_path / "home"
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.chdir(tmp_path)
    yield monkeypatch
    finish(0)
    wandb.teardown()


@pytest.fixture
def start(tmp_path, isolated_wandb):
    """start(env, run) -> the logger of the run in tmp_path/<run>."""
    from vae.tracking.loggers import wandb_logger

    def start(env, run="run", **about):
        for name, value in env.items():
            isolated_wandb.setenv(name, value)
        (tmp_path / run).mkdir(exist_ok=True)
        about = {"project": "vae", "name": run, "group": "sweep", "tags": ["a", "b"], "notes": None} | about
        about = {"job_type": "train", "log_model": False} | about
        return wandb_logger(tmp_path / run, tmp_path, **about, timeout=SECONDS, finish_timeout=SECONDS)

    return start


@pytest.fixture(scope="session")
def browser():
    """A real one, without a screen; what needs it is skipped where there is none."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium, in which the page would be opened, is not on the PATH")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=chromium, args=[*flags, "--disable-component-update", "--disable-sync"]
        )
        yield found
        found.close()


@pytest.fixture
def module_cli(monkeypatch, capsys):
    """module_cli(module)(*arguments) runs what python -m does; (exit code, stdout, stderr)."""

    def command(module):
        def run(*arguments):
            monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
            code = module.cli()
            captured = capsys.readouterr()
            return code, captured.out, captured.err

        return run

    return command
