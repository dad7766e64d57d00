"""The denoising criterion, on a linear-Gaussian model whose log p(x) is known."""

import pytest
import torch
from conftest import compose_config
from linear_gaussian import linear_gaussian
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

from vae.acceleration.compilation import CompiledStep
from vae.model.noise import Gaussian, Masking
from vae.model.vae import VAE
from vae.training.build import build


def with_noise(noise, n):
    """Return a VAE whose q(z|x) is the exact posterior, with noise, and n images."""
    vae, x, exact = linear_gaussian(widen=1.0, n=n)
    return VAE(vae.encoder, vae.posterior, vae.decoder, vae.likelihood, vae.prior, noise=noise), x, exact


class Doubled(torch.nn.Module):
    def forward(self, x):
        return 2 * x


@torch.no_grad()
def test_the_encoder_sees_noise_and_the_likelihood_does_not():
    """The bound is log p(x) less KL(q(z|noisy x) || p(z|x))."""
    vae, x, exact = with_noise(Doubled(), 5)
    terms = vae.terms(x, 20_000)
    assert terms.x is x
    covariance = vae.posterior.covariance
    q, p = (MultivariateNormal(factor * x.flatten(1) @ vae.posterior.to_mean.T, covariance) for factor in (2, 1))
    assert_close(terms.elbo, exact - kl_divergence(q, p), atol=0.2, rtol=0.01)


@torch.no_grad()
def test_the_mean_bound_with_gaussian_noise_is_that_of_its_variance():
    """q has the mean M (x + sigma e) and p(z|x) M x, so the mean KL is sigma^2 tr(M' S^-1 M) / 2."""
    sigma = 0.7
    vae, x, exact = with_noise(Gaussian(sigma), 1)
    many = x.expand(40_000, -1, -1, -1)
    M = vae.posterior.to_mean
    kl = sigma**2 * torch.trace(M.T @ torch.linalg.inv(vae.posterior.covariance) @ M) / 2
    assert vae.terms(many).elbo.mean().item() == pytest.approx((exact - kl).item(), rel=0.02)


@torch.no_grad()
def test_in_evaluation_there_is_no_noise():
    for noise in (Gaussian(3.0), Masking(0.9)):
        vae, x, exact = with_noise(noise, 6)
        vae.eval()
        assert_close(vae.terms(x).log_w[0], exact, atol=1e-4, rtol=0)


def test_masking_drops_pixels_in_all_channels_with_its_probability():
    torch.manual_seed(0)
    x = torch.rand(200, 3, 10, 10) + 1
    seen = Masking(0.3)(x)
    dropped = seen == 0
    assert_close(dropped.float().mean().item(), 0.3, atol=0.01, rtol=0)
    assert (dropped == dropped[:, :1]).all()
    assert torch.equal(seen[~dropped], x[~dropped])
    assert not torch.equal(dropped[0], dropped[1])


def test_pseudo_inputs_have_no_noise():
    module = build(compose_config("prior=vampprior", "noise=gaussian", "hidden_size=4"), (1, 3, 3))
    z = torch.randn(5, 20)
    assert torch.equal(module.vae.p_z().log_prob(z), module.vae.p_z().log_prob(z))
    x = torch.rand(2, 1, 3, 3)
    assert not torch.equal(module.vae.q_z(x).mean, module.vae.q_z(x).mean)


def test_labels_have_no_noise_and_the_classifier_sees_it():
    module = build(compose_config("objective=m2", "noise=masking", "noise.p=0.999999", "hidden_size=4"), (1, 3, 3), 2)
    x, y = torch.rand(2, 1, 3, 3), torch.eye(2)
    mean = module.vae.given(y).q_z(x).mean
    assert torch.equal(mean, module.vae.given(y).q_z(0 * x).mean)
    assert not torch.equal(mean[0], mean[1])  # by the label
    assert torch.equal(module.vae.log_qy_x(x), module.vae.log_qy_x(0 * x))


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["gaussian", "masking"])
def test_a_compiled_step_draws_new_noise_each_time(noise):
    from pytorch_lightning import Trainer

    torch.manual_seed(0)
    module = build(compose_config(f"noise={noise}", "hidden_size=9", "latent_dim=4"), (1, 8, 8))
    module.trainer = Trainer(logger=False, barebones=True)
    x = torch.rand(6, 1, 8, 8).round()
    step = CompiledStep(module, x)
    sums = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        sums.append(step.forward_backward(x, 1.0).clone())
    torch.manual_seed(5)
    assert_close(sums[0], module(x, 1.0)[1], rtol=1e-4, atol=1e-3)
    assert torch.equal(sums[0], sums[1])
    assert not torch.equal(sums[0], sums[2])
