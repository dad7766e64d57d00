"""Estimators, against a linear-Gaussian model with known log p(x)."""

import math

import pytest
import torch
from linear_gaussian import NOISE, linear_gaussian

from vae.model import estimator
from vae.model.estimator import active_units, importance_sample, summarize


@pytest.mark.parametrize("K", [1, 10, 1000])
def test_log_px_matches_the_exact_value_within_its_standard_error(K):
    vae, x, exact = linear_gaussian(widen=1.2, n=400)
    error = importance_sample(vae, x, K).log_px - exact
    standard_error = error.std() / 20
    bias = error.var() / 2  # of the logarithm of a mean, to first order: the bound is loose for small K
    assert -4 * standard_error - 2 * bias < error.mean() < 4 * standard_error


def test_log_px_increases_with_K():
    vae, x, exact = linear_gaussian(widen=2.0, n=2000)
    estimates = [importance_sample(vae, x, K).log_px.mean().item() for K in (1, 5, 50, 500)]
    assert estimates == sorted(estimates)
    assert estimates[-1] == pytest.approx(exact.mean().item(), abs=0.02)


@pytest.mark.parametrize("K", [1, 7, 10, 23])
def test_log_px_with_the_exact_posterior_is_exact_in_chunks_of_any_size(K):
    vae, x, exact = linear_gaussian(widen=1.0)
    chunks, sample_terms = [], vae.sample_terms
    vae.sample_terms = lambda *args: chunks.append(args[-1]) or sample_terms(*args)
    encoded = []
    vae.encoder.register_forward_hook(lambda *_: encoded.append(x))
    torch.testing.assert_close(importance_sample(vae, x, K, max_pixels=5 * x.numel()).log_px, exact, atol=1e-4, rtol=0)
    assert sum(chunks) == K
    assert max(chunks) <= 5
    assert len(encoded) == 1


def test_active_units_have_means_with_a_large_variance():
    torch.manual_seed(0)
    variance = torch.tensor([1.0, 0.02, 0.005, 0.0])
    assert active_units(torch.randn(5000, 4) * variance.sqrt() + 3) == 2


@pytest.mark.parametrize("max_pixels", [1, 2**23])
def test_rate_and_distortion_match_their_closed_forms(max_pixels):
    vae, x, _ = linear_gaussian(widen=1.5)
    torch.manual_seed(1)
    scores = importance_sample(vae, x, 4001, max_pixels * x.numel() * 1000 if max_pixels == 1 else max_pixels)
    q, W = vae.q_z(x), vae.decoder.W
    trace, mean = q.covariance_matrix[0].trace(), q.mean
    rate = (trace + mean.square().sum(1) - 2 - q.covariance_matrix[0].logdet()) / 2
    torch.testing.assert_close(scores.rate, rate, atol=0.1, rtol=0)
    error = (x.flatten(1) - mean @ W.T).square().sum(1) + (W @ q.covariance_matrix[0] @ W.T).trace()
    distortion = error / (2 * NOISE**2) + 2 * math.log(2 * math.pi * NOISE**2)
    torch.testing.assert_close(scores.distortion, distortion, atol=0.25, rtol=0)


def test_chunks_are_smaller_if_h_has_many_channels(monkeypatch):
    vae, x, _ = linear_gaussian(widen=1.5)
    monkeypatch.setattr(estimator, "MAX_H_VALUES", 3 * 5 * 4 * 7)
    vae.likelihood.h_channels = lambda channels: 7 * channels
    chunks, sample_terms = [], vae.sample_terms
    vae.sample_terms = lambda *args: chunks.append(args[-1]) or sample_terms(*args)
    importance_sample(vae, x, 8)
    assert chunks == [3, 3, 2]


def test_summary_has_the_mean_the_standard_error_and_bits_per_dim():
    vae, *_ = linear_gaussian(widen=1.0)
    vae.likelihood.support = torch.distributions.constraints.boolean
    values = summarize(torch.tensor([-1.0, -2.0, -3.0, -6.0]), vae, values=4)
    assert values["log_px"] == -3
    assert values["log_px_se"] == pytest.approx((14 / 3) ** 0.5 / 2)
    assert values["bits_per_dim"] == pytest.approx(3 / 4 / math.log(2))
    vae.likelihood.support = torch.distributions.constraints.real
    assert "bits_per_dim" not in summarize(torch.ones(3), vae, values=4)
