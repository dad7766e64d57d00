"""Run folders of version 0.1 are read by vae.compare and vae.evaluate, and resumed by train.py."""

import csv
import json
import shutil

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf, open_dict

from vae.compare import __main__ as compare
from vae.config.older_versions import CALLBACKS, MODULES, current_target
from vae.config.stored_arguments import sweep_arguments
from vae.evaluate import __main__ as evaluate
from vae.runs.run_folder import read_run

CLASSES = {  # the classes in the configs of version 0.1, by module
    "vae.likelihoods": [
        *("Bernoulli", "Categorical", "ContinuousBernoulli", "DiscretizedLogistic"),
        *("Gaussian", "GreyCrossEntropy", "PixelGaussian", "Shades"),
    ],
    "vae.posteriors": ["DiagonalGaussian", "IAF", "Point"],
    "vae.priors": ["Flow", "Mixture", "StandardNormal", "TwoLayers", "VampPrior"],
    "vae.objectives": ["Autoencoder", "Beta", "Capacity", "DReG", "ELBO", "FreeBits", "IWAE"],
    "vae.networks": [
        *("ConvDecoder", "ConvEncoder", "GatedMLPDecoder", "GatedMLPEncoder", "MLPDecoder", "MLPEncoder"),
    ],
    "vae.schedules": ["Constant", "Cyclical", "Linear", "OneCycle", "PowersOfThree"],
    "vae.sweep": ["Sweep"],
    "vae.loggers": ["wandb_logger"],
    "vae.tracking.loggers": ["wandb_logger"],  # later than version 0.1
}
OVERRIDES = {  # overrides of version 0.1 and the present ones
    "likelihood.widest=0.05": "likelihood.max_scale=0.05",
    "likelihood.paper=0.9": "likelihood.background=0.9",
    "objective.nats=0.5": "objective.free_bits=0.5",
    "optimizer/schedule=powers_of_three": "optimizer/schedule=burda2015",
    "experiment=livestream": "experiment=lesson",
    "experiment=manifold": "latent_dim=2",
}
SHADES = ["dataset.binarize=none", "likelihood=shades", "objective=free_bits"]
RUNS = {
    "keys": [
        *SHADES,
        "likelihood.widest=0.05",
        "likelihood.paper=0.9",
        "objective.nats=0.5",
        "optimizer/schedule=powers_of_three",
    ],
    "livestream": ["experiment=livestream", "trainer.max_steps=-1"],
    "manifold": ["experiment=manifold"],
}


def test_every_class_of_version_0_1_has_a_present_name():
    assert CLASSES.keys() == MODULES.keys()
    for module, names in CLASSES.items():
        for name in names:
            assert callable(get_object(current_target(f"{module}.{name}")))


def to_old_names(text):
    """Replace the present names of modules and classes in a config file by those of version 0.1."""
    for old, new in MODULES.items():
        text = text.replace(f"_target_: {new}.", f"_target_: {old}.")
    return text.replace("BurdaSchedule", "PowersOfThree")


def make_old(folder, old_overrides):
    """Rewrite the files of a run folder as version 0.1 wrote them."""
    hydra = folder / ".hydra"
    text = to_old_names((hydra / "config.yaml").read_text())
    for old, new in (("widest", "max_scale"), ("paper", "background"), ("nats", "free_bits")):
        text = text.replace(f"  {new}:", f"  {old}:")
    (hydra / "config.yaml").write_text(text)
    present = {new: old for old, new in OVERRIDES.items() if old in old_overrides}
    overrides = [present.get(override, override) for override in OmegaConf.load(hydra / "overrides.yaml")]
    OmegaConf.save(overrides, hydra / "overrides.yaml")
    details = OmegaConf.load(hydra / "hydra.yaml")
    with open_dict(details):
        for override in old_overrides:
            group, _, choice = override.partition("=")
            if group in details.hydra.runtime.choices:
                details.hydra.runtime.choices[group] = choice
    OmegaConf.save(details, hydra / "hydra.yaml")
    for name in ("best", "last"):
        path = folder / "checkpoints" / f"{name}.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        states = checkpoint.get("callbacks", {})
        for old, new in CALLBACKS.items():
            for key in [key for key in states if key.startswith(new)]:
                states[key.replace(new, old)] = states.pop(key)
        torch.save(checkpoint, path)


@pytest.fixture
def run_pair(request, cli, runs):
    """Two copies of a finished run: as written by the present version, and as written by version 0.1."""
    old_overrides = RUNS[request.param]
    code, _, err = cli(*(OVERRIDES.get(override, override) for override in old_overrides))
    assert code == 0, err
    (folder,) = runs()
    old = shutil.copytree(folder, folder.with_name("old"))
    make_old(old, old_overrides)
    return folder, old


@pytest.mark.parametrize("run_pair", RUNS, indirect=True)
def test_compare_reads_an_old_run(run_pair, module_cli):
    new, old = map(read_run, run_pair)
    assert (old.config, old.choices, old.summary) == (new.config, new.choices, new.summary)
    assert old.overridden_keys == new.overridden_keys
    assert any("vae.priors." in path.read_text() for path in (old.folder / ".hydra").iterdir())

    code, _, err = module_cli(compare)(*map(str, run_pair), f"out={old.folder}")
    assert (code, err) == (0, "")
    with (old.folder / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert list(rows[0])[:4] == ["folder", "status", "reason", "test/elbo"]  # no key differs


@pytest.mark.parametrize("run_pair", ["keys"], indirect=True)
def test_evaluate_scores_an_old_run_and_train_resumes_it(run_pair, cli, module_cli):
    for folder in run_pair:
        code, _, err = module_cli(evaluate)(f"run={folder}", "K=3")
        assert code == 0, err
    new, old = map(read_run, run_pair)
    assert old.summary == new.summary
    assert "test/log_px_K3" in new.summary

    for folder in run_pair:
        config = folder / ".hydra" / "config.yaml"
        config.write_text(config.read_text().replace("max_epochs: 2", "max_epochs: 3"))
        (folder / "summary.json").unlink()
        assert cli(f"resume={folder}", defaults=())[0] == 0
    new, old = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in run_pair)
    assert old["epoch"] == 2
    assert old["callbacks"].keys() == new["callbacks"].keys()
    assert all(torch.equal(value, new["state_dict"][name]) for name, value in old["state_dict"].items())
    new, old = map(read_run, run_pair)
    assert [row["epoch"] for row in old.history if "epoch" in row] == [1, 2, 3]
    assert old.summary == new.summary


@pytest.mark.slow
def test_a_resumed_old_run_keeps_the_state_of_its_callbacks(cli, runs):
    """The best score in the checkpoint is out of reach, so best.ckpt and the best score must not change."""
    assert cli()[0] == 0
    (folder,) = runs()
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    (early_stopping,) = (state for key, state in checkpoint["callbacks"].items() if "EarlyStopping" in key)
    (best,) = (
        state for state in checkpoint["callbacks"].values() if str(state.get("best_model_path")).endswith("best.ckpt")
    )
    early_stopping["best_score"] = best["best_model_score"] = torch.tensor(1000.0)
    best["best_k_models"] = dict.fromkeys(best["best_k_models"], torch.tensor(1000.0))
    best["kth_value"] = torch.tensor(1000.0)
    torch.save(checkpoint, path)
    make_old(folder, [])
    config = folder / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 2", "max_epochs: 3"))
    before = (folder / "checkpoints" / "best.ckpt").read_bytes()
    assert cli(f"resume={folder}", defaults=())[0] == 0
    assert (folder / "checkpoints" / "best.ckpt").read_bytes() == before
    states = torch.load(path, weights_only=True)["callbacks"].values()
    assert sum(1000.0 in (state.get("best_score"), state.get("best_model_score")) for state in states) == 2


def test_an_old_sweep_continues_with_the_present_names(tmp_path):
    task = ["objective=free_bits", "objective.nats=0.5,1", "optimizer/schedule=powers_of_three", "+likelihood.paper=1"]
    (tmp_path / "sweep.json").write_text(json.dumps({"hydra": ["hydra.mode=MULTIRUN"], "task": task}))
    arguments = sweep_arguments([f"sweep={tmp_path}"])
    assert arguments[1:-1] == [
        "objective=free_bits",
        "objective.free_bits=0.5,1",
        "optimizer/schedule=burda2015",
        "+likelihood.background=1",
    ]
