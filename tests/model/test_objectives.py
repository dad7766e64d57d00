"""The objectives, by hand and against a linear-Gaussian model; the schedules."""

import math

import pytest
import torch
from linear_gaussian import PIXELS, SHAPE, D, Gaussian, Linear, linear_gaussian
from torch import nn

from vae.errors import UserError
from vae.model.objectives import ELBO, IWAE, Autoencoder, Beta, Capacity, DReG, FreeBits
from vae.model.posteriors import IAF, DiagonalGaussian, Point
from vae.model.priors import StandardNormal, VampPrior
from vae.model.vae import VAE
from vae.training.schedules import BurdaSchedule, Constant, Cyclical, OneCycle
from vae.training.schedules import Linear as Warmup


def small(posterior=DiagonalGaussian, prior=StandardNormal):
    """A VAE with a linear encoder and decoder, and eight images."""
    torch.manual_seed(0)
    made = posterior(D)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, made.outputs))
    vae = VAE(encoder, made, Linear(nn.Parameter(torch.randn(PIXELS, D))), Gaussian(), prior(D, SHAPE))
    return vae, torch.rand(8, *SHAPE)


@pytest.mark.parametrize("K", [1, 2, 50])
def test_iwae_of_equal_weights_is_that_weight(K):
    vae, x, exact = linear_gaussian(widen=1.0)
    torch.testing.assert_close(IWAE(K)(vae.terms(x, K), 0.0), exact, atol=1e-4, rtol=0)


def test_iwae_is_the_log_of_the_mean_weight():
    vae, x = small()
    terms = vae.terms(x, 6)
    log_w = (terms.log_px_z + terms.log_pz - terms.log_qz_x).double()
    torch.testing.assert_close(IWAE(6)(terms, 0.0).double(), log_w.exp().mean(0).log())
    single = vae.terms(x, 1)
    torch.testing.assert_close(IWAE(1)(single, 0.0), single.log_w[0])


def test_iwae_rises_with_K_from_the_elbo_to_log_px():
    vae, x, exact = linear_gaussian(widen=1.5, n=2000)
    at = [IWAE(K)(vae.terms(x, K), 0.0).mean().item() for K in (1, 5, 50, 500)]
    assert at == sorted(at)
    assert at[0] == pytest.approx(vae.terms(x, 100).elbo.mean().item(), abs=0.1)
    assert at[-1] == pytest.approx(exact.mean().item(), abs=0.02)


def gradients(vae, value):
    vae.zero_grad()
    value.mean().backward()
    return [p.grad.clone() for p in vae.parameters()]


def test_dreg_has_the_value_of_iwae_and_its_gradient_for_the_decoder():
    vae, x = small()
    seen = []
    for objective in (IWAE(7), DReG(7)):
        torch.manual_seed(1)
        value = objective(vae.terms(x, 7), 0.0)
        vae.zero_grad()
        value.mean().backward()
        seen.append((value.detach(), vae.decoder.W.grad.clone()))
    torch.testing.assert_close(*(value for value, _ in seen))
    torch.testing.assert_close(*(gradient for _, gradient in seen))


@pytest.mark.parametrize("prior", [StandardNormal, lambda d, shape: VampPrior(d, shape, 3, 0.5)])
def test_dreg_s_gradient_is_iwae_s_in_the_mean_with_less_noise(prior):
    vae, x = small(prior=prior)
    many = x.repeat(4000, 1, 1, 1)  # their mean gradient is that of x, over as many draws
    torch.manual_seed(1)
    of_iwae, of_dreg = (gradients(vae, objective(vae.terms(many, 5), 0.0)) for objective in (IWAE(5), DReG(5)))
    for a, b in zip(of_iwae, of_dreg, strict=True):
        torch.testing.assert_close(a, b, atol=0.03, rtol=0.03)
    noise = []
    for objective in (IWAE(64), DReG(64)):
        draws = [gradients(vae, objective(vae.terms(x, 64), 0.0))[0] for _ in range(60)]
        noise.append(torch.stack(draws).var(0).sum().item())
    assert noise[1] < noise[0] / 2


def test_dreg_asks_nothing_of_a_posterior_that_is_right():
    vae, x, _ = linear_gaussian(widen=1.0, W=torch.diag(torch.tensor([1.5, 0.7, 0, 0]))[:, :2])
    exact = vae.posterior(x)
    h = torch.cat([exact.mean, exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).log()], 1).requires_grad_()
    del vae._modules["encoder"]
    vae.encoder, vae.posterior = (lambda _: h), DiagonalGaussian(D)
    DReG(5)(vae.terms(x, 5), 0.0).sum().backward()
    torch.testing.assert_close(h.grad, torch.zeros_like(h), atol=1e-4, rtol=0)


def test_dreg_needs_a_density_it_can_hold():
    vae, x = small(lambda d: IAF(d, 1, 8, 2))
    with pytest.raises(UserError, match=r"objective=dreg.*posterior=diagonal_gaussian"):
        DReG(2)(vae.terms(x, 2), 0.0)


def test_beta_weighs_the_kl():
    vae, x = small()
    terms = vae.terms(x, 3)
    for done, beta in ((0.0, 0.0), (0.05, 1.0), (0.2, 4.0), (0.9, 4.0)):
        objective = Beta(3, beta=4.0, schedule=Warmup(0.2))
        value = objective(terms, objective.weight(done))
        torch.testing.assert_close(value, terms.log_px_z.mean(0) - beta * terms.kl)


def test_capacity_pulls_the_kl_to_what_it_may_be():
    vae, x = small()
    terms = vae.terms(x)
    for done, nats in ((0.0, 0.0), (0.1, 5.0), (1.0, 10.0)):
        objective = Capacity(1, gamma=3.0, capacity=10.0, schedule=Warmup(0.2))
        value = objective(terms, objective.weight(done))
        torch.testing.assert_close(value, terms.log_px_z[0] - 3 * (terms.kl - nats).abs())


@pytest.mark.parametrize("nats", [0.0, 0.3, 5.0])
def test_free_bits_count_no_unit_below_its_own(nats):
    vae, x = small()
    terms = vae.terms(x)
    mean, log_var = vae.encoder(x).chunk(2, -1)
    units = ((mean**2 + log_var.exp() - 1 - log_var) / 2).mean(0)
    counted = sum(max(nats, unit) for unit in units.tolist())
    torch.testing.assert_close(FreeBits(1, nats)(terms, 0.0), terms.log_px_z[0] - counted)
    if nats == 0:
        assert FreeBits(1, nats)(terms, 0.0).mean().item() == pytest.approx(terms.elbo.mean().item(), abs=1e-5)


def test_free_bits_need_units():
    vae, x = small(prior=lambda d, shape: VampPrior(d, shape, 3, 0.5))
    with pytest.raises(UserError, match=r"objective=free_bits.*prior=standard_normal"):
        FreeBits(1, 0.1)(vae.terms(x), 0.0)


def test_the_autoencoder_is_a_squared_error_and_nothing_is_drawn():
    vae, x = small(Point)
    terms = vae.terms(x)
    mean = vae.encoder(x) @ vae.decoder.W.T
    torch.testing.assert_close(Autoencoder(1)(terms, 0.0), -(mean - x.flatten(1)).square().sum(1))
    with pytest.raises(UserError, match=r"posterior=point.*objective=autoencoder"):
        ELBO(1)(terms, 0.0)


@pytest.mark.parametrize("objective", [ELBO(4), Beta(4, 2.0, Constant()), IWAE(4), DReG(4), FreeBits(4, 0.0)])
def test_the_sign_of_every_term(objective):
    """A step up any of them brings images nearer to their reconstructions, and q, left to itself, to the prior."""
    vae, x = small()
    terms = vae.terms(x, 4)
    error = (x.flatten(1) - terms.z @ vae.decoder.W.T).square().sum(-1).mean()
    (towards,) = torch.autograd.grad(error, vae.decoder.W, retain_graph=True)
    (step,) = torch.autograd.grad(objective(terms, 1.0).mean(), vae.decoder.W)
    assert (step * towards).sum() < 0
    vae.decoder.W.data.zero_()
    h = torch.tensor([[0.4, -0.4, 1.0, -2.0]]).repeat(4000, 1).requires_grad_()
    del vae._modules["encoder"]
    vae.encoder = lambda _: h
    (step,) = torch.autograd.grad(objective(vae.terms(x[:1].expand(4000, *SHAPE), 4), 1.0).sum(), h)
    assert step.mean(0).sign().tolist() == [-1, 1, -1, 1]  # to mean 0, log-variance 0


def test_schedules_start_and_end_where_they_say():
    assert [Warmup(warmup=0.2)(done) for done in (0, 0.1, 0.2, 1.0)] == [0, 0.5, 1, 1]
    assert [Constant()(done) for done in (0, 0.3, 1.0)] == [1, 1, 1]
    cycle = [Cyclical(cycles=4, warmup=0.5)(done) for done in (0, 0.0625, 0.125, 0.2, 0.25, 0.3125, 0.999, 1.0)]
    assert cycle == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1])


def test_one_cycle_rises_then_falls_to_zero():
    assert OneCycle(warmup=0.1)(0.05) == pytest.approx(0.5)
    assert OneCycle(warmup=0.1)(0.1) == 1.0
    assert OneCycle(warmup=0.1)(0.55) == pytest.approx(0.5)
    assert OneCycle(warmup=0.1)(1.0) == pytest.approx(0.0)


def test_powers_of_three_are_burda_s_3280_epochs():
    epochs = [BurdaSchedule(stages=8)(epoch / 3280) for epoch in range(3280)]
    expected = [10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert len(expected) == 3280
    assert epochs == pytest.approx(expected)
    assert BurdaSchedule(stages=8)(1.0) == pytest.approx(0.1)
    assert math.isclose(BurdaSchedule(stages=8)(0.0), 1.0)
