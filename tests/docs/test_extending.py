"""The examples of docs/extending.md, copied from the page: each trains by its own command, and all compile together."""

import importlib.util
import json
import math
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from pages import ROOT, blocks
from torch.distributions import Binomial
from torch.testing import assert_close

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = {title: content for info, content in blocks(PAGE) for title in re.findall(r'title="(.+)"', info)}
COMMANDS = [line for info, block in blocks(PAGE) if not info for line in block.splitlines()]
GLOSSARY = (ROOT / "docs" / "metrics.md").read_text()
SHORT = ["trainer.max_epochs=1", "test.K=4", "latent_dim=2", "hidden_size=16", "logger=none"]
TOGETHER = (
    "python train.py dataset=stripes prior=laplace likelihood=binomial likelihood.levels=2 objective=renyi"
    " architecture=normalized"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the files of the examples."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("conf", "vae", "datamodules", "train.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for path, content in FILES.items():
        assert not (folder / path).exists()
        (folder / path).write_text(content)
    return folder


def test_there_is_an_example_of_each_part():
    groups = {path.split("/")[1] for path in FILES if path.startswith("conf/")}
    assert groups == {"dataset", "prior", "likelihood", "objective", "architecture"}
    assert len(FILES) == 2 * len(COMMANDS) == 10


@pytest.mark.parametrize("line", [*COMMANDS, f"{TOGETHER} compile=true"])
def test_example_trains(line, project, tmp_path):
    python, *typed = shlex.split(line)
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *typed, *SHORT, f"hydra.run.dir={tmp_path / 'run'}"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert all(map(math.isfinite, summary.values()))
    assert {"test/elbo", "test/log_px"} <= set(summary)
    header = (tmp_path / "run" / "metrics.csv").read_text().partition("\n")[0].split(",")
    for metric in {*summary, *header} - {"step"}:
        assert metric.rpartition("/")[2] in GLOSSARY


def load(path):
    spec = importlib.util.spec_from_loader("example", loader=None)
    module = importlib.util.module_from_spec(spec)
    sys.modules["example"] = module  # for dataclasses
    exec(compile(FILES[path], path, "exec"), module.__dict__)
    return module


def test_laplace_prior_has_the_density_of_torch():
    prior = load("vae/model/laplace.py").Laplace(3, (1, 4, 4), scale=2.0)
    z = torch.randn(5, 3)
    assert_close(prior(None).log_prob(z), (-z.abs() / 2 - math.log(4)).sum(-1))


def test_binomial_likelihood_sums_to_one():
    likelihood = load("vae/model/binomial.py").Binomial(17)
    p_x = likelihood(torch.full((1, 1, 1), 0.3))
    levels = (torch.arange(17) * 255 / 16).round() / 255
    log_mass = p_x.log_prob(levels.view(17, 1, 1, 1))
    assert_close(log_mass, Binomial(16, logits=torch.tensor(0.3)).log_prob(torch.arange(17.0)))
    assert_close(log_mass.exp().sum(), torch.tensor(1.0))
    assert_close(p_x.mean.squeeze(), torch.tensor(0.3).sigmoid())


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_renyi_bound_is_its_formula(alpha):
    terms = type("Terms", (), {"log_w": torch.randn(5, 7)})
    bound = load("vae/model/renyi.py").Renyi(K=5, alpha=alpha)(terms, 1.0)
    assert_close(bound, terms.log_w.exp().pow(1 - alpha).mean(0).log() / (1 - alpha))
