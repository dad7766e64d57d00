"""Terms of the ELBO, against closed forms and against a linear-Gaussian model with known log p(x)."""

import math

import pytest
import torch
from linear_gaussian import NOISE, linear_gaussian
from torch import nn
from torch.distributions import Distribution, Independent, Normal

from vae.model.likelihoods import Likelihood
from vae.model.objectives import ELBO
from vae.model.vae import VAE


def test_log_w_with_the_exact_posterior_is_log_px():
    vae, x, exact = linear_gaussian(widen=1.0)
    torch.testing.assert_close(vae.terms(x, K=3).log_w, exact.expand(3, 5), atol=1e-4, rtol=0)


def test_terms_match_the_densities_of_torch():
    vae, x, _ = linear_gaussian(widen=1.3)
    t = vae.terms(x, K=4)
    z = t.z.double()
    torch.testing.assert_close(t.log_pz.double(), Normal(0.0, 1.0).log_prob(z).sum(-1), atol=1e-5, rtol=0)
    h = (z @ vae.decoder.W.double().T).unflatten(-1, (1, 2, 2))
    log_px_z = Normal(h, NOISE).log_prob(x.double()).sum((-3, -2, -1))
    torch.testing.assert_close(t.log_px_z.double(), log_px_z, atol=1e-4, rtol=0)
    assert t.log_px_z.shape == t.log_pz.shape == t.log_qz_x.shape == t.log_w.shape == (4, 5)


def test_each_image_has_separate_noise():
    vae, x, _ = linear_gaussian(widen=1.0)
    repeated = x[:1].expand(6, -1, -1, -1)
    assert len(vae.terms(repeated, K=2).z.flatten(0, 1).unique(dim=0)) == 12


class DiagonalGaussian(nn.Module):
    """q(z|x) = N(mean, std) for every x."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return Independent(Normal(self.mean.expand(len(x), -1), self.std.expand(len(x), -1)), 1)


class NormalWithoutKL(Distribution):
    """A density for which torch has no KL."""

    def __init__(self, q):
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)
        self.rsample, self.log_prob = q.rsample, q.log_prob


class WithoutClosedForm(DiagonalGaussian):
    def forward(self, x):
        return NormalWithoutKL(super().forward(x))


class StandardNormalWithoutKL(nn.Module):
    def forward(self, _q):
        return NormalWithoutKL(Independent(Normal(torch.zeros(2), torch.ones(2)), 1))


class LearnedGaussian(nn.Module):
    """q(z|x) = N(mean, exp(log_std)^2) for every x, with learned parameters."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_std = nn.Parameter(MEAN.clone()), nn.Parameter(STD.log())

    def forward(self, x):
        return DiagonalGaussian(self.mean, self.log_std.exp())(x)


MEAN, STD = torch.tensor([0.3, -1.2]), torch.tensor([0.7, 1.9])


@pytest.mark.parametrize(("posterior", "atol"), [(DiagonalGaussian, 1e-6), (WithoutClosedForm, 0.03)])
def test_kl_is_the_closed_form_or_the_mean_over_samples(posterior, atol):
    torch.manual_seed(0)
    vae, x, _ = linear_gaussian(widen=1.0)
    vae.posterior = posterior(MEAN, STD)
    appendix_b = 0.5 * (MEAN**2 + STD**2 - 1 - (STD**2).log()).sum()  # Kingma & Welling 2013
    torch.testing.assert_close(vae.terms(x, K=40_000).kl, appendix_b.expand(5), atol=atol, rtol=0)


def test_elbo_is_the_mean_log_w_and_log_px_minus_the_kl_to_the_exact_posterior():
    vae, x, exact = linear_gaussian(widen=1.5)
    gap = 2 * (1.5**2 - 1 - math.log(1.5**2)) / 2
    t = vae.terms(x, K=50_000)
    torch.testing.assert_close(ELBO(K=1)(t, 0.0), exact - gap, atol=0.02, rtol=0)
    torch.testing.assert_close(t.log_w.mean(0), t.elbo, atol=0.02, rtol=0)
    torch.testing.assert_close(t.elbo, t.log_likelihood - t.kl)


def test_gradient_of_the_encoder_through_the_samples():
    vae, x, _ = linear_gaussian(widen=1.0)
    mean = MEAN.clone().requires_grad_()
    vae.posterior = DiagonalGaussian(mean, STD)
    torch.manual_seed(1)
    vae.terms(x, K=20_000).log_likelihood.mean().backward()
    W = vae.decoder.W  # d/dmean E log p(x|z) = W' (x - W mean) / noise^2
    expected = ((x.flatten(1) - MEAN @ W.T) @ W).mean(0) / NOISE**2
    torch.testing.assert_close(mean.grad, expected, atol=0.15, rtol=0.02)


def test_gradient_of_a_sampled_kl_is_that_of_the_closed_form_and_has_no_noise_where_q_is_p():
    vae, x, _ = linear_gaussian(widen=1.0)
    vae.posterior, vae.prior = LearnedGaussian(), StandardNormalWithoutKL()
    torch.manual_seed(0)
    vae.terms(x, K=100_000).kl.mean().backward()
    torch.testing.assert_close(vae.posterior.mean.grad, MEAN, atol=0.02, rtol=0)
    torch.testing.assert_close(vae.posterior.log_std.grad, STD**2 - 1, atol=0.05, rtol=0)
    vae.posterior.zero_grad()
    with torch.no_grad():
        for parameter in vae.posterior.parameters():
            parameter.zero_()
    vae.terms(x, K=1).kl.mean().backward()
    torch.testing.assert_close(vae.posterior.mean.grad, torch.zeros(2))
    torch.testing.assert_close(vae.posterior.log_std.grad, torch.zeros(2))


class Candidates(Likelihood):
    """Candidate images of one pixel: h + 0, h + 0.1, h + 0.2, ..."""

    def candidate_images(self, p_x, n):
        return p_x.mean + 0.1 * torch.arange(n).view(n, *[1] * p_x.mean.dim())

    def forward(self, h):
        return Independent(Normal(h, 1.0), 3)


class LabelShift(nn.Module):
    """The pixel less 0.1 in images with the first label, as both latents."""

    def forward(self, x, *y):
        shift = 0.1 * y[0][:, :1] if y else 0
        return (x.flatten(1) - shift).expand(-1, 2)


class Floor(nn.Module):
    """The first latent, rounded down."""

    def forward(self, z, *_y):
        return z[..., :1, None, None].floor()


def test_the_picture_is_the_candidate_whose_encoding_is_closest():
    posterior = WithoutClosedForm(torch.zeros(2), torch.ones(2))
    posterior.forward = lambda code: Independent(Normal(code, 1.0), 1)
    vae = VAE(LabelShift(), posterior, Floor(), Candidates(), nn.Identity())
    z = torch.tensor([[0.32, 0.32], [1.49, 1.69], [2.0, 2.0]])
    pixels = lambda images: images.flatten(1).squeeze(1)  # noqa: E731
    torch.testing.assert_close(pixels(vae.decode(z, candidates=8)), torch.tensor([0.3, 1.6, 2.0]))
    torch.testing.assert_close(pixels(vae.decode(z, candidates=3)), torch.tensor([0.2, 1.2, 2.0]))
    torch.testing.assert_close(pixels(vae.decode(z)), torch.tensor([0.0, 1.0, 2.0]))
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(pixels(vae.given(y).decode(z, candidates=8)), torch.tensor([0.4, 1.6, 2.1]))
    two_axes = vae.given(y).decode(z.expand(4, -1, -1), candidates=8)
    torch.testing.assert_close(two_axes, vae.given(y).decode(z, candidates=8).expand(4, -1, -1, -1, -1))
