import logging
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra

import train
from vae.config import stored_config
from vae.config.schema import CONF

BARS = [
    "dataset._target_=toy_dataset.Bars",
    "dataset.val_size=60",
    "batch_size=20",
    "hidden_size=16",
    "latent_dim=3",
]
WANDB_TIMEOUT = 2.0  # seconds
SHORT = ["trainer.max_epochs=2", "test.K=4", "log_every_n_steps=5"]


def compose_config(*overrides):
    """Return the config of train.py with these overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """Remove the data folder and the W&B settings of the user from the environment, and empty the dataset cache."""
    for name in [name for name in os.environ if name == "VAE_DATA_DIR" or name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("vae.training.experiment.DATASET_CACHE", {})


class WithTestClasses(frozenset):
    """The (group, class) pairs of conf/, and the classes of the tests."""

    def __contains__(self, pair):
        return super().__contains__(pair) or pair[1].startswith(("toy_dataset.", "fakes.", "ddp_worker.", "test_"))


@pytest.fixture(autouse=True)
def _trust_test_classes(monkeypatch):
    installed = stored_config.installed

    def with_test_classes(*folders):
        targets, resolvers = installed(*folders)
        return WithTestClasses(targets), resolvers

    monkeypatch.setattr(stored_config, "installed", with_test_classes)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys, request):
    """cli(*arguments) runs train.py in an empty folder on the bars dataset without W&B: (exit code, stdout, stderr).

    Plots are blank except in tests marked with `plots`, because drawing them takes longer than the training. Hydra does
    not compose the config once more to read hydra.mode, unless it is given.
    """
    monkeypatch.chdir(tmp_path)
    get_mode = Hydra.get_mode

    def given_mode(hydra, config_name, overrides):
        return get_mode(hydra, config_name, overrides) if any("hydra.mode" in arg for arg in overrides) else None

    monkeypatch.setattr(Hydra, "get_mode", given_mode)
    if not request.node.get_closest_marker("plots"):
        monkeypatch.setattr("vae.figures.render", lambda _figure: np.full((8, 8, 3), 255, np.uint8))

    def run(*arguments, defaults=(*BARS, *SHORT, "logger=csv")):
        monkeypatch.setattr(sys, "argv", ["train.py", *defaults, *arguments])
        before = set(logging.root.handlers)
        try:
            code = train.cli()
        except SystemExit as stop:
            code = stop.code
        for handler in set(logging.root.handlers) - before:
            logging.root.removeHandler(
                handler
            )  # added by Hydra; it would write to this test's console in the next test
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def runs(tmp_path):
    """runs() returns the folders of finished runs, oldest first."""
    return lambda: sorted(path.parent for path in Path(tmp_path, "outputs").rglob("summary.json"))


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(step, action): in the block, `action` is called before the optimizer step after `step` others."""
    from vae.training.lightning_module import VAEModule

    train_on_batch = VAEModule.train_on_batch

    @contextmanager
    def interrupt(step, action):
        def interrupted(module, *batch):
            if module.global_step == step:
                action()
            return train_on_batch(module, *batch)

        with monkeypatch.context() as patch:
            patch.setattr(VAEModule, "train_on_batch", interrupted)
            yield

    return interrupt


@pytest.fixture
def isolated_wandb(tmp_path, monkeypatch):
    """Isolate W&B from the user's settings and from earlier tests; yields the monkeypatch."""
    import wandb

    from vae.tracking.wandb_run import finish_wandb

    wandb.teardown()
    home = tmp_path / "home"
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.chdir(tmp_path)
    yield monkeypatch
    finish_wandb(0)
    wandb.teardown()


@pytest.fixture
def start_wandb(tmp_path, isolated_wandb):
    """start_wandb(env, run) starts a W&B run for the folder tmp_path/<run> and returns its logger."""
    from vae.tracking.wandb_run import wandb_logger

    def start(env, run="run", **options):
        for name, value in env.items():
            isolated_wandb.setenv(name, value)
        (tmp_path / run).mkdir(exist_ok=True)
        defaults = {"project": "vae", "name": run, "group": "sweep", "tags": ["a", "b"], "notes": None}
        options = defaults | {"job_type": "train", "log_model": False} | options
        return wandb_logger(tmp_path / run, tmp_path, **options, timeout=WANDB_TIMEOUT, finish_timeout=WANDB_TIMEOUT)

    return start


def pytest_collection_modifyitems(items):
    """Mark the tests that need a browser."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    """A headless browser. Tests that need it are skipped if chromium is not installed."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium is not on the PATH")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[*flags, "--disable-component-update", "--disable-sync"]
        )
        yield browser
        browser.close()


@pytest.fixture
def module_cli(monkeypatch, capsys):
    """module_cli(module)(*arguments) runs the command line of a module: (exit code, stdout, stderr)."""

    def cli_of(module):
        def run(*arguments):
            monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
            code = module.cli()
            captured = capsys.readouterr()
            return code, captured.out, captured.err

        return run

    return cli_of
