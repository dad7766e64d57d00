"""Every likelihood: a density or a mass over its support, equal to torch's, from logits."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn.functional import binary_cross_entropy_with_logits

from vae.config import CONF, choices
from vae.likelihoods import Bernoulli, ContinuousBernoulli

H = torch.linspace(-6, 6, 13, dtype=torch.float64).view(-1, 1, 1, 1)  # one pixel, thirteen logits


def test_bernoulli_mass_sums_to_one():
    p = Bernoulli()(H)
    mass = sum(p.log_prob(torch.full_like(H, value)).exp() for value in (0.0, 1.0))
    torch.testing.assert_close(mass, torch.ones_like(mass))


def test_bernoulli_is_cross_entropy_summed_over_pixels():
    torch.manual_seed(0)
    h, x = torch.randn(4, 3, 2, 5, 7) * 9, torch.bernoulli(torch.rand(3, 2, 5, 7))
    expected = -binary_cross_entropy_with_logits(h, x.expand_as(h), reduction="none").sum((-3, -2, -1))
    torch.testing.assert_close(Bernoulli()(h).log_prob(x), expected)


def test_continuous_bernoulli_density_integrates_to_one():
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    density = ContinuousBernoulli()(H).log_prob(x).exp()
    torch.testing.assert_close(torch.trapezoid(density, dx=1 / 20_000, dim=0), torch.ones(13, dtype=torch.float64))


@pytest.mark.parametrize("name", choices("likelihood"))
def test_shapes_and_means(name):
    likelihood = instantiate(OmegaConf.load(CONF / "likelihood" / f"{name}.yaml"))
    h = torch.randn(5, 3, 2 * likelihood.params_per_pixel, 4, 6)
    p = likelihood(h)
    assert p.log_prob(torch.zeros(3, 2, 4, 6)).shape == (5, 3)
    assert p.mean.shape == (5, 3, 2, 4, 6)
    assert likelihood.support.check(p.sample()).all()
    torch.manual_seed(0)
    torch.testing.assert_close(p.sample((4000,)).mean(0), p.mean, atol=0.05, rtol=0)
