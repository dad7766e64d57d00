"""The example of docs/training/own_configs.md, in a folder outside of the project."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml
from pages import ROOT, blocks
from warm_process import run_python

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "training" / "own_configs.md").read_text()
FILES = {title: content for info, content in blocks(PAGE) for title in re.findall(r'title="(.+)"', info)}
COMMANDS = [line for info, block in blocks(PAGE) if not info for line in block.splitlines()]
SHORT = ["trainer.max_epochs=1", "test.K=2", "logger=csv", "log_every_n_steps=50", "hidden_size=8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def train(folder, *typed, code=0):
    return run_python(folder, str(ROOT / "train.py"), *typed, code=code)


def test_a_run_with_own_configs_trains_and_is_read_by_the_other_commands(folder):
    lines = [shlex.split(line)[2:] for line in COMMANDS if "train.py --config-dir=my_configs experiment" in line]
    assert lines == [["--config-dir=my_configs", "experiment=ours"]]
    train(folder, *lines[0], *SHORT, "hydra.run.dir=outputs/one")
    config = yaml.safe_load((folder / "outputs" / "one" / ".hydra" / "config.yaml").read_text())
    assert config["prior"] == {"_target_": "my_priors.StudentT", "latent_dim": "${latent_dim}", "df": 5.0}
    assert config["latent_dim"] == 3
    generate = ["-m", "vae.generate", "run=outputs/one", "what=samples"]
    refused = run_python(folder, *generate, code=2)
    assert refused.startswith("run=outputs/one: prior._target_=my_priors.StudentT: this class is not in conf/prior/")
    assert refused.count("\n") == 1
    assert "samples.png" in run_python(folder, *generate, "--config-dir=my_configs")
    evaluate = ["-m", "vae.evaluate", "run=outputs/one", "K=2", "images=2"]
    assert "log_px_K2" in run_python(folder, *evaluate, "--config-dir=my_configs")
    assert "resume=outputs/one: prior._target_" in train(folder, "resume=outputs/one", code=2)
    train(folder, "resume=outputs/one", "--config-dir=my_configs")


def test_choices_of_own_configs_are_listed_and_proposed(folder):
    assert re.search(r"prior: diagonal_gaussian, .*, student_t, ", train(folder, "--config-dir=my_configs", "--help"))
    searchpath = "hydra.searchpath=[file://my_configs]"
    assert train(folder, searchpath, "prior=student", code=2).endswith("vampprior; did you mean student_t?\n")
    assert train(folder, searchpath, "prior=student_t", "prior.fd=1", code=2).startswith(
        "prior.fd: no such key; did you mean prior.df?"
    )
    for wrong in ("--config-dir=nothing", "hydra.searchpath=[nothing]", "hydra.searchpath=[pkg://no.such]"):
        assert train(folder, wrong, code=2).startswith(f"{wrong}: expected a")


def test_a_sweep_with_own_configs_is_resumed(folder):
    sweep = ["-m", "--config-dir", "my_configs", "experiment=ours", "prior=student_t,standard_normal"]
    train(folder, *sweep, *SHORT, "hydra.sweep.dir=outputs/sweep")
    (summary,) = (folder / "outputs" / "sweep").glob("*prior=student_t*/summary.json")
    summary.unlink()
    assert "not allowed in stored arguments" in train(folder, "sweep=outputs/sweep", code=2)
    out = train(folder, "sweep=outputs/sweep", "--config-dir=my_configs")
    assert out.count("is already finished") == 1
    assert len(list((folder / "outputs" / "sweep").glob("*/summary.json"))) == 2


def test_a_class_on_pythonpath_trains_in_several_processes(folder, tmp_path, monkeypatch):
    (tmp_path / "my_priors.py").write_text(FILES["my_priors.py"])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "empty").mkdir()
    typed = [f"--config-dir={folder / 'my_configs'}", "experiment=ours", "trainer=ddp", *SHORT]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *typed], cwd=tmp_path / "empty", check=True, timeout=200)
