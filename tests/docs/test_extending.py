"""The examples of docs/extending.md, copied from the page to an empty folder: each trains by its own command.

All together, they compile, and the other commands read the run.
"""

import importlib.util
import json
import math
import re
import shlex
import sys

import pytest
import torch
from pages import ROOT, blocks
from torch.distributions import Binomial
from torch.testing import assert_close
from warm_process import run_python

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = {title: content for info, content in blocks(PAGE) for title in re.findall(r'title="(.+)"', info)}
COMMANDS = [line for info, block in blocks(PAGE) if not info for line in block.splitlines()]
GLOSSARY = (ROOT / "docs" / "metrics.md").read_text()
SHORT = ["trainer.max_epochs=1", "test.K=4", "latent_dim=2", "hidden_size=16", "logger=none"]
OWN = "--config-dir=my_configs"
PARTS = "prior=laplace posterior=gumbel objective=renyi architecture=normalized"
TOGETHER = f"python train.py {OWN} {PARTS} dataset=stripes likelihood=binomial likelihood.levels=2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder outside of the project, with the files of the examples."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return folder


def train(folder, line, *typed, code=0):
    """Run a command line of train.py in the folder, with the path of train.py."""
    python, script, *arguments = shlex.split(line)
    assert (python, script) == ("python", "train.py")
    return run_python(folder, str(ROOT / script), *arguments, *SHORT, *typed, code=code)


def test_there_is_an_example_of_each_part():
    groups = {path.split("/")[1] for path in FILES if path.startswith("my_configs/")}
    assert groups == {"dataset", "prior", "posterior", "likelihood", "objective", "architecture"}
    assert len(FILES) == 2 * len(COMMANDS) == 12


@pytest.mark.parametrize("line", COMMANDS)
def test_example_trains(line, folder, tmp_path):
    train(folder, line, f"hydra.run.dir={tmp_path / 'run'}")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert all(map(math.isfinite, summary.values()))
    assert {"test/elbo", "test/log_px"} <= set(summary)
    header = (tmp_path / "run" / "metrics.csv").read_text().partition("\n")[0].split(",")
    for metric in {*summary, *header} - {"step"}:
        assert metric.rpartition("/")[2] in GLOSSARY


def test_all_together_compile_and_the_other_commands_read_the_run(folder):
    """Also with labels, which the prior of the example takes."""
    assert "compiling" in train(folder, TOGETHER, "compile=true", "conditional=true", "hydra.run.dir=outputs/all")
    for what in ("samples", "styles"):
        assert f"{what}.png" in run_python(folder, "-m", "vae.generate", OWN, "run=outputs/all", f"what={what}")
    assert "log_px_K3" in run_python(folder, "-m", "vae.evaluate", OWN, "run=outputs/all", "K=3", "images=4")
    explore = """
import vae
from vae.explore.explorer import Explorer
run = vae.load("outputs/all", trust=True)
page = Explorer("all", "all", run.model, True)
name = next(iter(page.by_name))
print(page.about["unit"], *page.dataset_image(name), len(page.decode([page.sample_prior(0)], 0)))
"""
    assert " z " in run_python(folder, "-c", explore)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("prior=laplace prior.scale=0", "prior.scale=0: expected a number above 0"),
        ("posterior=gumbel posterior.min_scale=-1", "posterior.min_scale=-1: expected a number above 0"),
        ("prior=laplace prior.scal=1", "prior.scal: no such key; did you mean prior.scale?"),
        ("prior=vampprior posterior=gumbel", "expected posterior=diagonal_gaussian"),
        ("objective=beta_tc posterior=gumbel", "expected posterior=diagonal_gaussian"),
    ],
)
def test_a_wrong_value_is_one_line_before_anything_is_written(typed, message, folder, tmp_path):
    line = f"python train.py --config-dir={folder / 'my_configs'} {typed} dataset=digits"
    (tmp_path / "gumbel.py").write_text(FILES["gumbel.py"])
    (tmp_path / "laplace.py").write_text(FILES["laplace.py"])
    printed = train(tmp_path, line, code=2)
    assert printed.count("\n") == 1
    assert message in printed
    assert not (tmp_path / "outputs").exists()


def load(path):
    spec = importlib.util.spec_from_loader("example", loader=None)
    module = importlib.util.module_from_spec(spec)
    sys.modules["example"] = module  # for dataclasses
    exec(compile(FILES[path], path, "exec"), module.__dict__)
    return module


def test_laplace_prior_has_the_density_of_torch():
    prior = load("laplace.py").Laplace(3, (1, 4, 4), scale=2.0)
    z = torch.randn(5, 3)
    assert_close(prior(None).log_prob(z), (-z.abs() / 2 - math.log(4)).sum(-1))


def test_binomial_likelihood_sums_to_one():
    likelihood = load("binomial.py").Binomial(17)
    p_x = likelihood(torch.full((1, 1, 1), 0.3))
    levels = (torch.arange(17) * 255 / 16).round() / 255
    log_mass = p_x.log_prob(levels.view(17, 1, 1, 1))
    assert_close(log_mass, Binomial(16, logits=torch.tensor(0.3)).log_prob(torch.arange(17.0)))
    assert_close(log_mass.exp().sum(), torch.tensor(1.0))
    assert_close(p_x.mean.squeeze(), torch.tensor(0.3).sigmoid())


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_renyi_bound_is_its_formula(alpha):
    terms = type("Terms", (), {"log_w": torch.randn(5, 7)})
    bound = load("renyi.py").Renyi(K=5, alpha=alpha)(terms, 1.0)
    assert_close(bound, terms.log_w.exp().pow(1 - alpha).mean(0).log() / (1 - alpha))
