"""The estimators, against a linear-Gaussian model, whose log p(x) is known."""

import math

import numpy as np
import pytest
import torch
from linear_gaussian import NOISE, linear_gaussian

from vae.errors import UserError
from vae.model import estimator
from vae.model.estimator import active_units, cached_scores, importance_sample, summary


@pytest.mark.parametrize("K", [1, 10, 1000])
def test_log_px_agrees_with_the_exact_one_within_its_error(K):
    vae, x, exact = linear_gaussian(widen=1.2, n=400)
    error = importance_sample(vae, x, K).log_px - exact
    standard_error = error.std() / 20
    bias = error.var() / 2  # of the log of a mean, to first order: the bound is loose at small K
    assert -4 * standard_error - 2 * bias < error.mean() < 4 * standard_error


def test_log_px_rises_with_K():
    vae, x, exact = linear_gaussian(widen=2.0, n=2000)
    at = [importance_sample(vae, x, K).log_px.mean().item() for K in (1, 5, 50, 500)]
    assert at == sorted(at)
    assert at[-1] == pytest.approx(exact.mean().item(), abs=0.02)


@pytest.mark.parametrize("K", [1, 7, 10, 23])
def test_log_px_of_equal_weights_is_that_weight_in_chunks_of_any_size(K):
    vae, x, exact = linear_gaussian(widen=1.0)
    drawn, of_known = [], vae.drawn
    vae.drawn = lambda *known: drawn.append(known[-1]) or of_known(*known)
    encoded = []
    vae.encoder.register_forward_hook(lambda *_: encoded.append(x))
    torch.testing.assert_close(importance_sample(vae, x, K, pixels=5 * x.numel()).log_px, exact, atol=1e-4, rtol=0)
    assert sum(drawn) == K
    assert max(drawn) <= 5
    assert len(encoded) == 1


def test_active_units_are_those_whose_mean_moves():
    torch.manual_seed(0)
    variance = torch.tensor([1.0, 0.02, 0.005, 0.0])
    assert active_units(torch.randn(5000, 4) * variance.sqrt() + 3) == 2


@pytest.mark.parametrize("pixels", [1, 2**23])
def test_rate_and_distortion_are_their_closed_forms(pixels):
    vae, x, _ = linear_gaussian(widen=1.5)
    torch.manual_seed(1)
    scores = importance_sample(vae, x, 4001, pixels * x.numel() * 1000 if pixels == 1 else pixels)
    q, W = vae.q_z(x), vae.decoder.W
    trace, mean = q.covariance_matrix[0].trace(), q.mean
    rate = (trace + mean.square().sum(1) - 2 - q.covariance_matrix[0].logdet()) / 2
    torch.testing.assert_close(scores.rate, rate, atol=0.1, rtol=0)
    error = (x.flatten(1) - mean @ W.T).square().sum(1) + (W @ q.covariance_matrix[0] @ W.T).trace()
    distortion = error / (2 * NOISE**2) + 2 * math.log(2 * math.pi * NOISE**2)
    torch.testing.assert_close(scores.distortion, distortion, atol=0.25, rtol=0)


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A model and 250 images, of which the first two batches are the same; what was scored, in batches."""
    vae, x, _ = linear_gaussian(widen=1.5, n=250)
    vae.register_parameter("device", torch.nn.Parameter(torch.zeros(())))
    x[100:200] = x[:100]
    sizes = []

    def spied(vae, x, K, compiled):
        sizes.append(len(x))
        return importance_sample(vae, x, K, compiled=compiled)

    monkeypatch.setattr(estimator, "importance_sample", spied)
    return lambda n, weights="w", name="scores": cached_scores(
        vae, x, n, 7, 3, tmp_path / f"{name}.npz", weights, False
    ), sizes


def test_scores_are_kept_as_they_come_and_never_computed_twice(scored, tmp_path):
    score, sizes = scored
    whole = score(250, name="whole")
    assert sizes == [100, 100, 50]
    assert (whole.log_px[:100] != whole.log_px[100:200]).all()  # other noise for the same images
    part = score(150)
    assert score(150).log_px.equal(part.log_px)
    assert sizes == [100, 100, 50, 100, 100]
    again = score(250)
    assert sizes == [100, 100, 50, 100, 100, 50]
    for a, b, c in zip(whole, again, part, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[:150], c)
    with np.load(tmp_path / "scores.npz") as saved:
        assert torch.from_numpy(saved["log_px"]).equal(whole.log_px)
    assert not list(tmp_path.glob("*.part"))


def test_what_was_scored_before_an_interruption_is_kept(scored, monkeypatch):
    score, sizes = scored
    spied = estimator.importance_sample

    def interrupted(*arguments, **more):
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return spied(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(estimator, "importance_sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score(250)
    score(250)
    assert sizes == [100, 100, 50]


def test_scores_of_other_weights_are_not_these(scored):
    score, sizes = scored
    score(250)
    score(250, weights="others")
    assert sizes == 2 * [100, 100, 50]


@pytest.mark.parametrize("damage", [lambda whole: whole[:200], lambda _: b"", lambda _: b"no archive at all"])
def test_damaged_scores_are_one_line(damage, scored, tmp_path):
    score, _ = scored
    score(100)
    file = tmp_path / "scores.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"scores\.npz is damaged"):
        score(100)


def test_a_decoder_of_many_maps_is_asked_for_less_at_a_time(monkeypatch):
    vae, x, _ = linear_gaussian(widen=1.5)
    monkeypatch.setattr(estimator, "MAPS", 3 * 5 * 4 * 7)
    vae.likelihood.maps = lambda channels: 7 * channels
    drawn, of_known = [], vae.drawn
    vae.drawn = lambda *known: drawn.append(known[-1]) or of_known(*known)
    importance_sample(vae, x, 8)
    assert drawn == [3, 3, 2]


def test_a_summary_is_the_mean_its_error_and_bits():
    vae, *_ = linear_gaussian(widen=1.0)
    vae.likelihood.support = torch.distributions.constraints.boolean
    found = summary(torch.tensor([-1.0, -2.0, -3.0, -6.0]), vae, dimensions=4)
    assert found["log_px"] == -3
    assert found["log_px_se"] == pytest.approx((14 / 3) ** 0.5 / 2)
    assert found["bits_per_dim"] == pytest.approx(3 / 4 / math.log(2))
    vae.likelihood.support = torch.distributions.constraints.real
    assert "bits_per_dim" not in summary(torch.ones(3), vae, dimensions=4)
