"""The metrics that a run logs: when, under which names, and with which values."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from run_outputs import ROOT, load_checkpoint, read_metrics
from toy_dataset import WORSE_AT_THE_END

import vae
from vae.training import metrics
from vae.training.schedules import OneCycle


def test_logged_metrics_are_complete_and_consistent(cli, runs):
    cli("trainer.max_epochs=3")
    (folder,) = runs()
    rows = read_metrics(folder)
    assert [row["step"] for row in rows if "lr" in row] == [5, 10, 12, 15, 20, 24, 25, 30, 35, 36]
    assert [(row["step"], row["epoch"]) for row in rows if "epoch" in row] == [(12, 1), (24, 2), (36, 3)]
    for row in rows:
        (split,) = {name.split("/")[0] for name in row if "/" in name}
        elbo, kl, log_likelihood = (row[f"{split}/{name}"] for name in ("elbo", "kl", "log_likelihood"))
        assert elbo == pytest.approx(log_likelihood - kl, abs=1e-3)
        assert kl > 0 > log_likelihood
    assert all(row["images_per_second"] > 0 for row in rows if "lr" in row)
    assert [row["images_seen"] for row in rows if "epoch" in row] == [240, 480, 720]
    assert all(0 < before["seconds"] <= after["seconds"] for before, after in pairwise(rows))
    elbos = [row["train/elbo"] for row in rows if "lr" in row]
    assert elbos[-1] > elbos[0] + 3
    assert elbos[0] == pytest.approx(-64 * math.log(2), rel=0.1)  # an untrained model predicts 1/2 for every pixel


def test_an_objective_logs_terms_of_its_own_in_training_and_validation(cli, runs):
    code, out, _ = cli("objective=beta_tc", "trainer.max_epochs=2", "batch_size=60")
    assert code == 0
    assert "total_correlation" not in out
    (folder,) = runs()
    rows = read_metrics(folder)
    names = ("mutual_information", "total_correlation", "dimension_wise_kl")
    logged = [(split, row) for row in rows for split in ("train", "val") if f"{split}/kl" in row]
    assert {split for split, _ in logged} == {"train", "val"}
    for split, row in logged:
        parts = [row[f"{split}/{name}"] for name in names]
        assert sum(parts) == pytest.approx(row[f"{split}/kl"], rel=0.15, abs=0.3)  # of samples, in closed form
        cost = (6 - 1) * row[f"{split}/total_correlation"]
        assert row[f"{split}/objective"] == pytest.approx(row[f"{split}/elbo"] - cost, abs=1e-3)
    assert not [
        name for row in rows for name in row if name.startswith("test/") and name.removeprefix("test/") in names
    ]
    assert vae.load(folder).module.N == 240


def test_the_last_steps_are_logged_too(cli, runs):
    assert cli("trainer.max_steps=17", "log_every_n_steps=10")[0] == 0
    assert [row["step"] for row in read_metrics(*runs()) if "train/elbo" in row] == [10, 12, 17]


def test_the_learning_rate_follows_its_schedule(cli, runs):
    assert cli("log_every_n_steps=1", "optimizer.lr=0.01")[0] == 0
    (folder,) = runs()
    rates = [row["lr"] for row in read_metrics(folder) if "lr" in row]
    expected = [0.01 * OneCycle(warmup=0.1)((step + 1) / 25) for step in range(24)]
    assert rates == pytest.approx(expected)
    assert min(rates) > 0  # also in the first and the last step


def test_testing_the_best_epoch_keeps_the_number_of_images_seen(cli, runs):
    cli("trainer.max_epochs=5", *WORSE_AT_THE_END)
    (folder,) = runs()
    *trained, tested = read_metrics(folder)
    best = max((row for row in trained if "epoch" in row), key=lambda row: row["val/elbo"])
    assert best["epoch"] < 5
    assert tested["images_seen"] == trained[-1]["images_seen"] == 5 * 240


def test_test_metrics_are_those_of_the_best_epoch_by_their_definitions(cli, runs, monkeypatch):
    cli("trainer.max_epochs=5", "test.K=2000", *WORSE_AT_THE_END)
    (folder,) = runs()
    summary = json.loads((folder / "summary.json").read_text())
    val = [row["val/elbo"] for row in read_metrics(folder) if "val/elbo" in row]
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    best = load_checkpoint(folder, "best")
    assert best["epoch"] == int(np.argmax(val)) < 4
    # compute the metrics from the weights alone
    from torch.nn.functional import binary_cross_entropy_with_logits
    from toy_dataset import Bars

    data = Bars("data", 20, 0, 60, 0, "dynamic")
    data.setup()
    x = data.x("test").flatten(1)
    w = {name.removeprefix("vae."): value for name, value in best["state_dict"].items()}
    layers = {
        side: [(w[f"{side}.net.{i}.weight"], w[f"{side}.net.{i}.bias"]) for i in (0, 2)]
        for side in ("encoder", "decoder")
    }

    def net(side, x):
        (W0, b0), (W1, b1) = layers[side]
        return torch.tanh(x @ W0.T + b0) @ W1.T + b1

    mean, log_var = net("encoder", x).chunk(2, -1)
    torch.manual_seed(1)
    noise = torch.randn(2000, *mean.shape)
    z = mean + noise * (log_var / 2).exp()
    log_px_z = -binary_cross_entropy_with_logits(net("decoder", z), x.expand(2000, -1, -1), reduction="none").sum(-1)
    kl = (mean**2 + log_var.exp() - 1 - log_var).sum(-1) / 2
    log_w = log_px_z + (-(z**2) + noise**2 + log_var).sum(-1) / 2
    assert summary["test/kl"] == pytest.approx(kl.mean().item(), abs=1e-3)
    assert summary["test/elbo"] == pytest.approx((log_px_z.mean(0) - kl).mean().item(), abs=0.6)
    log_px = log_w.logsumexp(0) - math.log(2000)
    assert summary["test/log_px"] == pytest.approx(log_px.mean().item(), abs=0.15)
    assert summary["test/log_px_se"] == pytest.approx(log_px.std().item() / 120**0.5, rel=0.1)
    assert summary["test/active_units"] == (mean.var(0) > 0.01).sum()
    assert summary["test/bits_per_dim"] == pytest.approx(-summary["test/log_px"] / 64 / math.log(2))
    reconstruction = net("decoder", mean).sigmoid()
    assert summary["test/squared_error"] == pytest.approx((reconstruction - x).square().sum(1).mean().item(), rel=1e-4)
    mean_image = data.images["train"].pixels.flatten(1).double().mean(0) / 255
    baseline = (mean_image - x).square().sum(1).mean().item()
    assert summary["test/squared_error_of_mean_image"] == pytest.approx(baseline, rel=1e-4)
    assert summary["test/elbo"] < summary["test/log_px"] < 0


def test_log_px_is_computed_for_the_first_test_images_only(cli, monkeypatch):
    calls = []
    importance_sample = metrics.importance_sample

    def spy(vae, x, K):
        calls.append((len(x), K))
        return importance_sample(vae, x, K)

    monkeypatch.setattr(metrics, "importance_sample", spy)
    monkeypatch.setattr("datamodules.base.EVAL_BATCH", 50)
    code, _, _ = cli("test.images=70", "test.K=9")
    assert code == 0
    assert calls == [(50, 9), (20, 9)]


@pytest.mark.slow
def test_grey_cross_entropy_is_logged_under_its_own_name(cli, runs):
    code, out, _ = cli("dataset.binarize=none", "likelihood=grey_cross_entropy")
    assert code == 0
    (folder,) = runs()
    header = (folder / "metrics.csv").read_text().split("\n")[0].split(",")
    for split in ("train", "val", "test"):
        assert {f"{split}/minus_cross_entropy", f"{split}/minus_cross_entropy_less_kl"} <= set(header)
    for word in ("elbo", "log_likelihood", "log_px", "bits"):
        assert word not in " ".join(header) + (folder / "summary.json").read_text() + out
    for row in (row for row in read_metrics(folder) if "val/kl" in row):
        bound = row["val/minus_cross_entropy"] - row["val/kl"]
        assert row["val/minus_cross_entropy_less_kl"] == pytest.approx(bound, abs=1e-3)
    assert (folder / "checkpoints" / "best.ckpt").exists()


@pytest.mark.slow
def test_an_autoencoder_logs_no_elbo(cli, runs):
    assert cli("-m", "objective=autoencoder,elbo")[0] == 0
    folder, other = runs()
    assert "test/elbo" in (other / "summary.json").read_text()
    words = (folder / "metrics.csv").read_text() + (folder / "summary.json").read_text()
    for word in ("elbo", "kl", "log_likelihood", "log_px", "bits"):
        assert word not in words
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {f"test/{n}" for n in ("squared_error", "squared_error_of_mean_image", "active_units")}
    errors = [row["val/squared_error"] for row in read_metrics(folder) if "val/squared_error" in row]
    objectives = [row["val/objective"] for row in read_metrics(folder) if "val/objective" in row]
    assert [-objective for objective in objectives] == pytest.approx(errors)


@pytest.mark.slow
def test_a_continuous_likelihood_has_no_bits_per_dim(cli, runs):
    for likelihood in ("continuous_bernoulli", "gaussian"):
        assert cli("dataset.binarize=none", f"likelihood={likelihood}")[0] == 0
    for folder in runs():
        summary = json.loads((folder / "summary.json").read_text())
        assert "test/log_px" in summary
        assert "test/bits_per_dim" not in summary
