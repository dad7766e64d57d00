"""The mathematics, against closed forms and against a linear-Gaussian model, whose log p(x) is known."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from vae.estimator import active_units, log_px
from vae.model import VAE
from vae.objectives import ELBO, KLWarmUp
from vae.priors import StandardNormal

D, PIXELS, NOISE = 2, 4, 0.5


class Gaussian(nn.Module):
    def forward(self, h):
        return Independent(Normal(h, NOISE), 3)


class Linear(nn.Module):
    def __init__(self, W):
        super().__init__()
        self.W = W

    def forward(self, z):
        return (z @ self.W.T).unflatten(-1, (1, 2, 2))


class Posterior(nn.Module):
    """The true q(z|x) of z ~ N(0, I), x = Wz + noise, with its standard deviations times `widen`."""

    def __init__(self, W, widen):
        super().__init__()
        self.covariance = torch.linalg.inv(torch.eye(D) + W.T @ W / NOISE**2)
        self.to_mean = self.covariance @ W.T / NOISE**2
        self.widen = widen

    def forward(self, x):
        return MultivariateNormal(x.flatten(1) @ self.to_mean.T, self.covariance * self.widen**2)


def linear_gaussian(widen, n=5):
    """A VAE, n images from it and their exact log p(x)."""
    torch.manual_seed(0)
    W = torch.randn(PIXELS, D)
    marginal = MultivariateNormal(torch.zeros(PIXELS), W @ W.T + NOISE**2 * torch.eye(PIXELS))
    x = marginal.sample((n,))
    vae = VAE(Posterior(W, widen), Linear(W), Gaussian(), StandardNormal(D))
    return vae, x.unflatten(-1, (1, 2, 2)), marginal.log_prob(x)


def test_true_posterior_makes_every_log_w_equal_log_px():
    vae, x, exact = linear_gaussian(widen=1.0)
    torch.testing.assert_close(vae.terms(x, K=3).log_w, exact.expand(3, 5), atol=1e-4, rtol=0)


def test_terms_are_the_densities_of_torch():
    vae, x, _ = linear_gaussian(widen=1.3)
    t = vae.terms(x, K=4)
    z = t.z.double()
    torch.testing.assert_close(t.log_pz.double(), Normal(0.0, 1.0).log_prob(z).sum(-1), atol=1e-5, rtol=0)
    h = (z @ vae.decoder.W.double().T).unflatten(-1, (1, 2, 2))
    log_px_z = Normal(h, NOISE).log_prob(x.double()).sum((-3, -2, -1))
    torch.testing.assert_close(t.log_px_z.double(), log_px_z, atol=1e-4, rtol=0)
    assert t.log_px_z.shape == t.log_pz.shape == t.log_qz_x.shape == t.log_w.shape == (4, 5)


def test_each_image_has_its_own_noise():
    vae, x, _ = linear_gaussian(widen=1.0)
    same = x[:1].expand(6, -1, -1, -1)
    assert len(vae.terms(same, K=2).z.flatten(0, 1).unique(dim=0)) == 12


class DiagonalGaussian(nn.Module):
    """q(z|x) = N(mean, std), whatever x is."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return Independent(Normal(self.mean.expand(len(x), -1), self.std.expand(len(x), -1)), 1)


class Unnamed(Distribution):
    """A density torch has no KL for."""

    def __init__(self, q):
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)
        self.rsample, self.log_prob = q.rsample, q.log_prob


class WithoutClosedForm(DiagonalGaussian):
    def forward(self, x):
        return Unnamed(super().forward(x))


MEAN, STD = torch.tensor([0.3, -1.2]), torch.tensor([0.7, 1.9])


@pytest.mark.parametrize(("encoder", "atol"), [(DiagonalGaussian, 1e-6), (WithoutClosedForm, 0.03)])
def test_kl_is_the_closed_form_or_the_samples_mean(encoder, atol):
    torch.manual_seed(0)
    vae, x, _ = linear_gaussian(widen=1.0)
    vae.encoder = encoder(MEAN, STD)
    appendix_b = 0.5 * (MEAN**2 + STD**2 - 1 - (STD**2).log()).sum()  # Kingma & Welling 2013
    torch.testing.assert_close(vae.terms(x, K=40_000).kl, appendix_b.expand(5), atol=atol, rtol=0)


def test_elbo_is_the_mean_log_w_and_log_px_less_the_kl_to_the_posterior():
    vae, x, exact = linear_gaussian(widen=1.5)
    gap = 2 * (1.5**2 - 1 - math.log(1.5**2)) / 2
    t = vae.terms(x, K=50_000)
    torch.testing.assert_close(ELBO()(t, 0.0), exact - gap, atol=0.02, rtol=0)
    torch.testing.assert_close(t.log_w.mean(0), t.elbo, atol=0.02, rtol=0)
    torch.testing.assert_close(t.elbo, t.log_likelihood - t.kl)


def test_kl_warmup_weighs_the_kl_with_a_beta_that_rises_to_one():
    vae, x, _ = linear_gaussian(widen=1.5)
    t = vae.terms(x, K=3)
    for done, beta in ((0.0, 0.0), (0.05, 0.25), (0.2, 1.0), (0.9, 1.0)):
        torch.testing.assert_close(KLWarmUp(warmup=0.2)(t, done), t.log_px_z.mean(0) - beta * t.kl)


def test_gradient_reaches_the_encoder_through_the_samples():
    vae, x, _ = linear_gaussian(widen=1.0)
    mean = MEAN.clone().requires_grad_()
    vae.encoder = DiagonalGaussian(mean, STD)
    torch.manual_seed(1)
    vae.terms(x, K=20_000).log_likelihood.mean().backward()
    W = vae.decoder.W  # d/dmean E log p(x|z) = W' (x - W mean) / noise^2
    expected = ((x.flatten(1) - MEAN @ W.T) @ W).mean(0) / NOISE**2
    torch.testing.assert_close(mean.grad, expected, atol=0.15, rtol=0.02)


@pytest.mark.parametrize("K", [1, 10, 1000])
def test_log_px_agrees_with_the_exact_one_within_its_error(K):
    vae, x, exact = linear_gaussian(widen=1.2, n=400)
    error = log_px(vae, x, K) - exact
    standard_error = error.std() / 20
    bias = error.var() / 2  # of the log of a mean, to first order: the bound is loose at small K
    assert -4 * standard_error - 2 * bias < error.mean() < 4 * standard_error


def test_log_px_rises_with_K():
    vae, x, exact = linear_gaussian(widen=2.0, n=2000)
    at = [log_px(vae, x, K).mean().item() for K in (1, 5, 50, 500)]
    assert at == sorted(at)
    assert at[-1] == pytest.approx(exact.mean().item(), abs=0.02)


@pytest.mark.parametrize("K", [1, 7, 10, 23])
def test_log_px_of_equal_weights_is_that_weight_in_chunks_of_any_size(K):
    vae, x, exact = linear_gaussian(widen=1.0)
    drawn = []
    terms = vae.terms
    vae.terms = lambda x, K: drawn.append(K) or terms(x, K)
    torch.testing.assert_close(log_px(vae, x, K, pixels=5 * x.numel()), exact, atol=1e-4, rtol=0)
    assert sum(drawn) == K
    assert max(drawn) <= 5


def test_active_units_are_those_whose_mean_moves():
    torch.manual_seed(0)
    variance = torch.tensor([1.0, 0.02, 0.005, 0.0])
    assert active_units(torch.randn(5000, 4) * variance.sqrt() + 3) == 2
