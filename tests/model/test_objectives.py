"""Objectives, against their definitions and against a linear-Gaussian model with known log p(x)."""

import pytest
import torch
from linear_gaussian import PIXELS, SHAPE, D, Gaussian, Linear, linear_gaussian
from torch import nn

from vae.errors import UserError
from vae.model import priors
from vae.model.objectives import ELBO, IWAE, Autoencoder, Beta, Capacity, DReG, FreeBits
from vae.model.posteriors import IAF, DiagonalGaussian, Point
from vae.model.priors import StandardNormal, VampPrior
from vae.model.vae import VAE
from vae.training.schedules import Constant
from vae.training.schedules import Linear as Warmup


def small_vae(posterior=DiagonalGaussian, prior=StandardNormal):
    """Return a VAE with a linear encoder and decoder, and eight images."""
    torch.manual_seed(0)
    q_z = posterior(D)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, q_z.outputs))
    vae = VAE(encoder, q_z, Linear(nn.Parameter(torch.randn(PIXELS, D))), Gaussian(), prior(D, SHAPE))
    return vae, torch.rand(8, *SHAPE)


@pytest.mark.parametrize("K", [1, 2, 50])
def test_iwae_with_the_exact_posterior_is_log_px(K):
    vae, x, exact = linear_gaussian(widen=1.0)
    torch.testing.assert_close(IWAE(K)(vae.terms(x, K), 0.0), exact, atol=1e-4, rtol=0)


def test_iwae_is_the_log_of_the_mean_weight():
    vae, x = small_vae()
    terms = vae.terms(x, 6)
    log_w = (terms.log_px_z + terms.log_pz - terms.log_qz_x).double()
    torch.testing.assert_close(IWAE(6)(terms, 0.0).double(), log_w.exp().mean(0).log())
    single = vae.terms(x, 1)
    torch.testing.assert_close(IWAE(1)(single, 0.0), single.log_w[0])


def test_iwae_increases_with_K_from_the_elbo_to_log_px():
    vae, x, exact = linear_gaussian(widen=1.5, n=2000)
    bounds = [IWAE(K)(vae.terms(x, K), 0.0).mean().item() for K in (1, 5, 50, 500)]
    assert bounds == sorted(bounds)
    assert bounds[0] == pytest.approx(vae.terms(x, 100).elbo.mean().item(), abs=0.1)
    assert bounds[-1] == pytest.approx(exact.mean().item(), abs=0.02)


def gradients(vae, value):
    vae.zero_grad()
    value.mean().backward()
    return [p.grad.clone() for p in vae.parameters()]


def test_dreg_has_the_value_and_decoder_gradient_of_iwae():
    vae, x = small_vae()
    results = []
    for objective in (IWAE(7), DReG(7)):
        torch.manual_seed(1)
        value = objective(vae.terms(x, 7), 0.0)
        vae.zero_grad()
        value.mean().backward()
        results.append((value.detach(), vae.decoder.W.grad.clone()))
    torch.testing.assert_close(*(value for value, _ in results))
    torch.testing.assert_close(*(gradient for _, gradient in results))


@pytest.mark.parametrize("prior", [StandardNormal, lambda d, shape: VampPrior(d, shape, 3, 0.5)])
def test_dreg_gradient_has_the_mean_of_iwae_and_less_variance(prior):
    vae, x = small_vae(prior=prior)
    many = x.repeat(4000, 1, 1, 1)  # the mean gradient of x over many samples
    torch.manual_seed(1)
    iwae, dreg = (gradients(vae, objective(vae.terms(many, 5), 0.0)) for objective in (IWAE(5), DReG(5)))
    for a, b in zip(iwae, dreg, strict=True):
        torch.testing.assert_close(a, b, atol=0.03, rtol=0.03)
    variance = []
    for objective in (IWAE(64), DReG(64)):
        samples = [gradients(vae, objective(vae.terms(x, 64), 0.0))[0] for _ in range(60)]
        variance.append(torch.stack(samples).var(0).sum().item())
    assert variance[1] < variance[0] / 2


def test_dreg_gradient_is_zero_at_the_exact_posterior():
    vae, x, _ = linear_gaussian(widen=1.0, W=torch.diag(torch.tensor([1.5, 0.7, 0, 0]))[:, :2])
    exact = vae.posterior(x)
    h = torch.cat([exact.mean, exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).log()], 1).requires_grad_()
    del vae._modules["encoder"]
    vae.encoder, vae.posterior = (lambda _: h), DiagonalGaussian(D)
    DReG(5)(vae.terms(x, 5), 0.0).sum().backward()
    torch.testing.assert_close(h.grad, torch.zeros_like(h), atol=1e-4, rtol=0)


def test_dreg_needs_a_gaussian_posterior():
    vae, x = small_vae(lambda d: IAF(d, 1, 8, 2))
    with pytest.raises(UserError, match=r"objective=dreg.*posterior=diagonal_gaussian"):
        DReG(2)(vae.terms(x, 2), 0.0)


def test_beta_multiplies_the_kl():
    vae, x = small_vae()
    terms = vae.terms(x, 3)
    for progress, beta in ((0.0, 0.0), (0.05, 1.0), (0.2, 4.0), (0.9, 4.0)):
        objective = Beta(3, beta=4.0, schedule=Warmup(0.2))
        value = objective(terms, objective.weight(progress))
        torch.testing.assert_close(value, terms.log_px_z.mean(0) - beta * terms.kl)


def test_capacity_penalises_the_distance_of_the_kl():
    vae, x = small_vae()
    terms = vae.terms(x)
    for progress, nats in ((0.0, 0.0), (0.1, 5.0), (1.0, 10.0)):
        objective = Capacity(1, gamma=3.0, capacity=10.0, schedule=Warmup(0.2))
        value = objective(terms, objective.weight(progress))
        torch.testing.assert_close(value, terms.log_px_z[0] - 3 * (terms.kl - nats).abs())


@pytest.mark.parametrize("nats", [0.0, 0.3, 5.0])
def test_free_bits_clamp_the_kl_of_each_unit(nats):
    vae, x = small_vae()
    terms = vae.terms(x)
    mean, log_var = vae.encoder(x).chunk(2, -1)
    units = ((mean**2 + log_var.exp() - 1 - log_var) / 2).mean(0)
    kl = sum(max(nats, unit) for unit in units.tolist())
    torch.testing.assert_close(FreeBits(1, nats)(terms, 0.0), terms.log_px_z[0] - kl)
    if nats == 0:
        assert FreeBits(1, nats)(terms, 0.0).mean().item() == pytest.approx(terms.elbo.mean().item(), abs=1e-5)


@pytest.mark.parametrize("nats", [0.0, 0.3, 50.0])
def test_free_bits_clamp_the_whole_kl_if_that_of_a_unit_has_no_closed_form(nats):
    vae, x = small_vae(prior=lambda d, shape: VampPrior(d, shape, 3, 0.5))
    terms = vae.terms(x)
    kl = max(terms.z.shape[-1] * nats, terms.kl.mean().item())
    torch.testing.assert_close(FreeBits(1, nats)(terms, 0.0), terms.log_px_z[0] - kl)


@pytest.mark.parametrize("prior", [priors.DiagonalGaussian, lambda d, shape: priors.Mixture(d, shape, 2)])
@pytest.mark.parametrize("nats", [0.0, 50.0])
def test_free_bits_always_fit_the_prior_and_leave_q_free_below_them(prior, nats):
    vae, x = small_vae(prior=prior)
    terms = vae.terms(x)
    fitted = torch.autograd.grad(FreeBits(1, nats)(terms, 0.0).mean(), list(vae.prior.parameters()), retain_graph=True)
    kl = torch.autograd.grad(-terms.kl.mean(), list(vae.prior.parameters()), retain_graph=True)
    torch.testing.assert_close(fitted, kl)
    of_encoder = torch.autograd.grad(FreeBits(1, nats)(terms, 0.0).mean(), vae.encoder[1].weight, retain_graph=True)
    bound = terms.log_px_z[0].mean() if nats else terms.elbo.mean()
    torch.testing.assert_close(of_encoder, torch.autograd.grad(bound, vae.encoder[1].weight))


def test_autoencoder_is_the_negative_squared_error():
    vae, x = small_vae(Point)
    terms = vae.terms(x)
    mean = vae.encoder(x) @ vae.decoder.W.T
    torch.testing.assert_close(Autoencoder(1)(terms, 0.0), -(mean - x.flatten(1)).square().sum(1))
    with pytest.raises(UserError, match=r"posterior=point.*objective=autoencoder"):
        ELBO(1)(terms, 0.0)


@pytest.mark.parametrize("objective", [ELBO(4), Beta(4, 2.0, Constant()), IWAE(4), DReG(4), FreeBits(4, 0.0)])
def test_signs_of_all_gradients(objective):
    """Gradient ascent reduces the reconstruction error, and, for a decoder that ignores z, moves q to the prior."""
    vae, x = small_vae()
    terms = vae.terms(x, 4)
    error = (x.flatten(1) - terms.z @ vae.decoder.W.T).square().sum(-1).mean()
    (error_gradient,) = torch.autograd.grad(error, vae.decoder.W, retain_graph=True)
    (gradient,) = torch.autograd.grad(objective(terms, 1.0).mean(), vae.decoder.W)
    assert (gradient * error_gradient).sum() < 0
    vae.decoder.W.data.zero_()
    h = torch.tensor([[0.4, -0.4, 1.0, -2.0]]).repeat(4000, 1).requires_grad_()
    del vae._modules["encoder"]
    vae.encoder = lambda _: h
    (gradient,) = torch.autograd.grad(objective(vae.terms(x[:1].expand(4000, *SHAPE), 4), 1.0).sum(), h)
    assert gradient.mean(0).sign().tolist() == [-1, 1, -1, 1]  # towards mean 0 and log-variance 0
