"""Training by train.py: its steps, schedules, early stopping and choice of the best epoch."""

import gc
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import seed_everything
from run_outputs import load_checkpoint, load_weights, read_metrics, same_weights, without_times
from toy_dataset import WORSE_AT_THE_END

from vae.model.objectives import Beta
from vae.model.vae import VAE
from vae.training.build import build
from vae.training.experiment import load_dataset


def test_same_seed_gives_the_same_numbers_and_another_seed_does_not(cli, runs):
    for seed in (1, 1, 2):
        cli(f"seed={seed}")
    a, b, c = map(load_weights, runs())
    assert same_weights(a, b)
    assert not same_weights(a, c)
    first, second, third = (json.loads((folder / "summary.json").read_text()) for folder in runs())
    assert first == second != third


def test_batches_per_chunk_do_not_change_the_result(cli, runs, monkeypatch):
    cli("trainer.max_epochs=4", "trainer.max_steps=31", "log_every_n_steps=2")
    monkeypatch.setattr("datamodules.loaders.BATCHES_PER_CHUNK", 1)
    cli("trainer.max_epochs=4", "trainer.max_steps=31", "log_every_n_steps=2")
    ten, one = runs()
    assert same_weights(load_weights(ten), load_weights(one))
    assert (ten / "summary.json").read_text() == (one / "summary.json").read_text()
    assert without_times(ten) == without_times(one)
    assert load_checkpoint(ten)["global_step"] == 31


@pytest.mark.parametrize("compilation", ["compile=false", pytest.param("compile=true", marks=pytest.mark.slow)])
def test_the_weights_are_those_of_a_plain_pytorch_loop(compilation, cli, runs):
    one = ["trainer.max_epochs=1", "gradient_clip_val=2.0", "optimizer/schedule=constant", "optimizer.fused=false"]
    assert cli(*one, "objective=beta", "objective.beta=0.5", "dataset.val_size=67", compilation)[0] == 0
    (folder,) = runs()
    cfg = OmegaConf.load(folder / ".hydra" / "config.yaml")
    seed_everything(cfg.seed, verbose=False)
    data = load_dataset(cfg, folder)
    vae = build(cfg, data.shape).vae
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), current_epoch=0)
    adam = torch.optim.Adam(vae.parameters(), lr=cfg.optimizer.lr)
    for x in (x for batches in data.train_dataloader() for x in batches):
        adam.zero_grad()
        terms = vae.terms(x)
        (-terms.log_likelihood + 0.5 * terms.kl).mean().backward()
        assert torch.nn.utils.clip_grad_norm_(vae.parameters(), 2.0) > 2
        adam.step()
    weights = load_weights(folder)
    for name, value in vae.state_dict().items():
        torch.testing.assert_close(weights[f"vae.{name}"], value)


def test_kl_warm_up_depends_on_the_step_and_does_not_change_the_logged_elbo(cli, monkeypatch):
    """A run of 3 epochs of 12 steps stops in the second epoch and is resumed."""
    calls = []
    weight, call = Beta.weight, Beta.__call__

    def save_fraction(self, done):
        self.done = done
        return weight(self, done)

    def spy(self, terms, beta):
        if torch.is_grad_enabled():
            calls.append((self.done, beta))
        if len(calls) == 20 and not stopped:
            stopped.append(True)
            sys.exit(1)
        return call(self, terms, beta)

    stopped = []
    monkeypatch.setattr(Beta, "weight", save_fraction)
    monkeypatch.setattr(Beta, "__call__", spy)
    warm_up = ["objective=beta", "objective.beta=1.0", "objective/schedule=linear", "objective.schedule.warmup=0.5"]
    assert cli(*warm_up, "trainer.max_epochs=3")[0] == 1
    (folder,) = (path.parent for path in Path("outputs").rglob("checkpoints"))
    assert calls.pop(0)[0] == 0.0  # the check before training
    assert [done for done, _ in calls] == pytest.approx([step / 36 for step in range(19)])
    calls.clear()
    assert cli(f"resume={folder}", defaults=())[0] == 0
    assert calls.pop(0)[0] == 0.0
    assert [done for done, _ in calls] == pytest.approx([step / 36 for step in range(12, 36)])
    assert [beta for _, beta in calls] == pytest.approx([min(1, step / 18) for step in range(12, 36)])
    for row in (row for row in read_metrics(folder) if "lr" in row):
        assert row["train/elbo"] == pytest.approx(row["train/log_likelihood"] - row["train/kl"], abs=1e-3)
    for row in (row for row in read_metrics(folder) if "val/elbo" in row):
        assert row["val/objective"] == pytest.approx(row["val/elbo"])  # validation uses the final beta, 1


@pytest.mark.slow
def test_early_stopping_ends_the_training_and_it_stays_ended(cli, runs):
    assert cli("trainer.max_epochs=30", "patience=2", *WORSE_AT_THE_END)[0] == 0
    (folder,) = runs()
    val = [row["val/objective"] for row in read_metrics(folder) if "val/objective" in row]
    assert int(np.argmax(val)) == len(val) - 3
    assert len(val) < 30
    last, summary = (folder / "checkpoints" / "last.ckpt").read_bytes(), (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(json.dumps(json.loads(summary) | {"test/log_px_K5": -1.0}))
    assert cli(f"resume={folder}", defaults=())[0] == 0  # tests again, and trains no more
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == last
    assert [row["val/objective"] for row in read_metrics(folder) if "val/objective" in row] == val
    assert json.loads((folder / "summary.json").read_text()) == json.loads(summary) | {"test/log_px_K5": -1.0}


def test_the_best_epoch_has_the_highest_objective(cli, runs, monkeypatch):
    calls, sample_terms = set(), VAE.sample_terms

    def spy(vae, *arguments):
        calls.add((torch.is_grad_enabled(), arguments[-1]))
        return sample_terms(vae, *arguments)

    monkeypatch.setattr(VAE, "sample_terms", spy)
    assert cli("objective=iwae", "objective.K=20", "trainer.max_epochs=4")[0] == 0
    (folder,) = runs()
    assert {K for training, K in calls if training} == {20}
    assert {K for training, K in calls if not training} == {1, 4, 20}  # the test uses 1 and test.K
    val = [row for row in read_metrics(folder) if "val/elbo" in row]
    assert all(row["val/objective"] > row["val/elbo"] for row in val)
    best = load_checkpoint(folder, "best")["epoch"]
    assert best == int(np.argmax([row["val/objective"] for row in val]))


def test_garbage_collection_is_enabled_during_training(cli):
    gc.disable()
    try:
        assert cli()[0] == 0
        assert gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "arguments",
    [
        ["activation=relu", "hidden_size=[12,6]"],
        ["dataset.binarize=static"],
        ["dataset.binarize=none", "likelihood=continuous_bernoulli"],
        ["latent_dim=2"],
        ["experiment=lesson", "trainer.max_steps=30", "log_every_n_steps=10"],
        pytest.param(["logger=none", "optimizer/schedule=constant", "gradient_clip_val=1.0"], marks=pytest.mark.slow),
        ["prior=vampprior", "prior.pseudo_inputs=7", "objective=iwae", "optimizer=rmsprop"],
        pytest.param(["prior=flow", "posterior=iaf", "optimizer=adagrad"], marks=pytest.mark.slow),
        pytest.param(["prior=two_layers", "objective=dreg", "optimizer/schedule=burda2015"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_variants_run(arguments, cli, runs):
    assert cli(*arguments)[0] == 0
    (folder,) = runs()
    assert all(math.isfinite(value) for value in json.loads((folder / "summary.json").read_text()).values())
