"""skip_gradient_norm=: a step with a huge gradient, or one that is not finite, changes nothing and is counted."""

import math
from copy import deepcopy

import pytest
import torch
from conftest import BARS, SHORT
from run_outputs import load_checkpoint, load_weights, read_metrics, same_weights, without_times
from test_ddp import finish, start

import vae
from vae.errors import UserError
from vae.training.lightning_module import VAEModule

BAD_STEP = 7  # of 24, in two epochs


def spoil(monkeypatch, factor):
    """Multiply the images of one step by `factor`. Return what is before and after each step, which is then filled."""
    states = []
    train_on_batch = VAEModule.train_on_batch

    def state(module):
        return deepcopy([module.state_dict(), module.optimizers().optimizer.state_dict()["state"]])

    def spoiled(module, x):
        before = state(module)
        sums = train_on_batch(module, factor * x if module.global_step == BAD_STEP else x)
        states.append((before, state(module)))
        return sums

    monkeypatch.setattr(VAEModule, "train_on_batch", spoiled)
    return states


def equal(a, b):
    """Return whether nested containers of tensors are equal."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    keys = range(len(a)) if isinstance(a, list) else a
    return len(a) == len(b) and all(equal(a[key], b[key]) for key in keys)


@pytest.mark.parametrize("factor", [math.nan, 1e7])
@pytest.mark.parametrize(
    "line",
    [
        "gradient_clip_val=1.0",
        "optimizer=sgd",
        "optimizer=rmsprop",
        pytest.param("compile=true", marks=pytest.mark.slow),
    ],
)
def test_a_bad_step_leaves_weights_and_optimizer_unchanged_and_is_counted(factor, line, cli, runs, monkeypatch):
    states = spoil(monkeypatch, factor)
    assert cli("skip_gradient_norm=1e4", *line.split())[0] == 0
    assert [equal(before, after) for before, after in states] == [step == BAD_STEP for step in range(24)]
    rows = read_metrics(*runs())
    logged = {row["step"]: row for row in rows if "lr" in row}
    counts = {5: 0, 10: 1, 12: 1, 15: 1, 20: 1, 24: 1}
    assert {step: row["skipped_steps"] for step, row in logged.items()} == counts
    assert all(row["images_seen"] == 20 * step and row["train/elbo"] > -100 for step, row in logged.items())


def test_without_the_key_a_bad_step_stops_the_run(cli, monkeypatch):
    spoil(monkeypatch, math.nan)
    code, _, err = cli()
    assert (code, err.count("\n")) == (2, 1)
    assert f"diverged at step {BAD_STEP + 1}" in err


def test_training_metrics_are_those_of_the_other_steps(cli, runs, monkeypatch):
    """With a learning rate of almost 0, the mean over four of five steps is that of a run that has only these."""
    sums = []
    train_on_batch = VAEModule.train_on_batch
    monkeypatch.setattr(
        VAEModule, "train_on_batch", lambda module, x: sums.append(train_on_batch(module, x)) or sums[-1]
    )
    spoil(monkeypatch, math.nan)
    assert cli("skip_gradient_norm=1e4")[0] == 0
    row = next(row for row in read_metrics(*runs()) if row["step"] == 10)
    elbos = [sums[step][0].item() / 20 for step in (5, 6, 8, 9)]
    assert row["train/elbo"] == pytest.approx(sum(elbos) / 4, rel=1e-6)


def test_a_limit_that_is_never_reached_changes_nothing(cli, runs):
    for line in ([], ["skip_gradient_norm=1e30"]):
        assert cli(*line, "gradient_clip_val=2.0")[0] == 0
    plain, guarded = runs()
    assert same_weights(load_weights(plain), load_weights(guarded))
    assert equal(*(load_checkpoint(folder)["optimizer_states"][0]["state"] for folder in (plain, guarded)))
    rows = [{name: x for name, x in row.items() if name != "skipped_steps"} for row in without_times(guarded)]
    assert rows == without_times(plain)
    assert "skipped_steps" not in (plain / "metrics.csv").read_text()


def test_a_limit_below_all_gradients_is_one_line(cli):
    code, _, err = cli("skip_gradient_norm=1e-6")
    assert (code, err.count("\n")) == (2, 1)
    assert "skip_gradient_norm=1e-06: every gradient had a larger norm or was not finite" in err


def test_a_resumed_run_goes_on_counting(cli, tmp_path, monkeypatch):
    spoil(monkeypatch, math.nan)
    spoiled = VAEModule.train_on_batch

    def stopped(module, x):
        if module.global_step == 20:
            raise UserError("stopped")
        return spoiled(module, x)

    with monkeypatch.context() as patch:
        patch.setattr(VAEModule, "train_on_batch", stopped)
        assert cli("skip_gradient_norm=1e4", "hydra.run.dir=run")[0] == 2
    vae.train(resume=tmp_path / "run", trust=True)
    assert [row["skipped_steps"] for row in read_metrics(tmp_path / "run") if "lr" in row] == [0, 1, 1, 1, 1, 1]


@pytest.mark.slow
def test_all_processes_skip_a_step_that_is_bad_in_one(tmp_path):
    arguments = [*BARS, *SHORT, "logger=csv", "trainer=ddp", "objective._target_=ddp_worker.Nan"]
    code, output = finish(start(tmp_path, *arguments, "skip_gradient_norm=1e4", "hydra.run.dir=run"))
    assert code == 0, output
    counts = [row["skipped_steps"] for row in read_metrics(tmp_path / "run") if "lr" in row]
    assert counts == [0, 1, 1, 1, 1, 1]
    assert all(value.isfinite().all() for value in load_weights(tmp_path / "run").values())
