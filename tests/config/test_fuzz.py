"""Random command lines, up to where work would begin: an answer of a line or more, and never a traceback.

FUZZ_EXAMPLES=1000 tries more of them.
"""

import logging
import os
import sys
from importlib import import_module

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vae.config.overrides import FOLDER_KEYS
from vae.training import command

EXAMPLES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "25")),
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
COMMANDS = ["compare", "dashboard", "evaluate", "explore", "export", "generate", "latent", "sync"]
KEYS = [
    "latent_dim",
    "hidden_size",
    "dataset.path",
    "dataset.size",
    "logger.wandb.tags",
    "test",
    "trainer",
    "optimizer.lr",
]
KEYS += ["experiment", "dataset", "prior", "objective/schedule", "search", "sweep", "resume", "trust", *FOLDER_KEYS]
KEYS += ["hydra/launcher", "hydra.sweeper.n_trials", "hydra.launcher.n_jobs", "hydra.job.name", "seed", "data_dir"]
COMMAND_KEYS = ["run", "what", "n", "temperature", "images", "fuse", "arithmetic", "dimensions", "seed", "K", "out"]
COMMAND_KEYS += ["map", "clusters", "port", "host", "compile", "outputs", "project", "entity", "trust", "probes"]

letters = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])  # no path outside the test's folder
numbers = st.one_of(st.integers(), st.floats(allow_subnormal=False)).map(str)
words = st.sampled_from(["null", "true", "mnist", "elbo,beta", "[]", "[1,2]", "{a:1}", "${seed}", "1e-3", "'", '"x"'])
pieces = st.one_of(numbers, words, st.text(letters, max_size=6), st.sampled_from(list("[](){}=,:~+*'\"\\$&!%@#|<>? ")))
values = st.one_of(words, numbers, st.lists(pieces, max_size=5).map("".join))


def arguments(keys):
    prefix = st.sampled_from(["", "", "", "+", "++", "~"])
    key = st.one_of(st.sampled_from(keys), st.text(letters, max_size=5))
    assignment = st.builds("{}{}={}".format, prefix, key, values)
    flag = st.sampled_from(["-m", "-h", "--multirun", "--cfg", "--help", "-x", "--", "--cfg=job"])
    return st.lists(st.one_of(assignment, assignment, assignment, values, flag), max_size=4)


@pytest.fixture
def answers(monkeypatch, capfd, tmp_path):
    """answers(cli, arguments) fails unless the command ends with an exit code and without a traceback."""
    monkeypatch.chdir(tmp_path)

    def check(cli, typed):
        monkeypatch.setattr(sys, "argv", ["command", *typed])
        before = set(logging.root.handlers)
        try:
            code = cli()
        except SystemExit as stop:
            code = stop.code
        for handler in set(logging.root.handlers) - before:
            logging.root.removeHandler(handler)
        output = "".join(capfd.readouterr())
        assert code in (None, 0, 1, 2), (code, output)
        assert "Traceback" not in output
        assert code in (None, 0) or output.strip()

    return check


@pytest.mark.slow
def test_train(answers, monkeypatch):
    monkeypatch.setattr(command, "launch", lambda *_: None)
    monkeypatch.setattr("vae.training.sweep.run_job", lambda *_: 0.0)

    @given(arguments(KEYS))
    @EXAMPLES
    def fuzz(typed):
        answers(command.cli, typed)

    fuzz()


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_command(name, answers, monkeypatch):
    module = import_module(f"vae.{name}" if name in ("dashboard", "sync") else f"vae.{name}.__main__")
    if name == "dashboard":
        monkeypatch.setattr(module, "dashboard", lambda *_: "https://example.org")

    @given(arguments(COMMAND_KEYS))
    @EXAMPLES
    def fuzz(typed):
        answers(module.cli, typed)

    fuzz()
