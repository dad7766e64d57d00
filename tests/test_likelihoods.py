"""Every likelihood: a density or a mass over its support, equal to torch's, from logits."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.distributions import AffineTransform, Normal, SigmoidTransform, TransformedDistribution, Uniform
from torch.nn.functional import binary_cross_entropy_with_logits

from vae.autoregressive import PAINTINGS, AutoregressiveLikelihood
from vae.command_line import choices
from vae.config import CONF, UserError
from vae.experiment import check_support
from vae.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    GreyCrossEntropy,
    PixelGaussian,
    Shades,
)
from vae.networks import MLPDecoder
from vae.pixels import eight_bits, log_mass

H = torch.linspace(-6, 6, 13, dtype=torch.float64).view(-1, 1, 1, 1)  # one pixel, thirteen logits


def test_bernoulli_mass_sums_to_one():
    p = Bernoulli()(H)
    mass = sum(p.log_prob(torch.full_like(H, value)).exp() for value in (0.0, 1.0))
    torch.testing.assert_close(mass, torch.ones_like(mass))


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 28, 28), (3, 128, 128)])
@pytest.mark.parametrize("scale", [0.0, 9.0, 1e3])
def test_bernoulli_is_cross_entropy_summed_over_pixels(scale, shape, gradient):
    torch.manual_seed(0)
    h, x = torch.randn(4, 3, *shape) * scale, torch.bernoulli(torch.rand(3, *shape))
    logits = h.double()
    expected = -binary_cross_entropy_with_logits(logits, x.double().expand_as(h), reduction="none").sum((-3, -2, -1))
    with torch.set_grad_enabled(gradient):
        found = Bernoulli()(h).log_prob(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)


def test_continuous_bernoulli_density_integrates_to_one():
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    density = ContinuousBernoulli()(H).log_prob(x).exp()
    torch.testing.assert_close(torch.trapezoid(density, dx=1 / 20_000, dim=0), torch.ones(13, dtype=torch.float64))


def test_gaussian_is_torch_s_with_one_sigma_and_integrates_to_one():
    torch.manual_seed(0)
    h, x = torch.randn(4, 3, 2, 5, 7), torch.rand(3, 2, 5, 7)
    for learned in (True, False):
        likelihood = Gaussian(sigma=0.3, learned=learned)
        expected = Normal(h.sigmoid(), 0.3).log_prob(x).sum((-3, -2, -1))
        torch.testing.assert_close(likelihood(h).log_prob(x), expected)
        assert [p.requires_grad for p in likelihood.parameters()] == [learned]
    x = torch.linspace(-4, 5, 20_001, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    density = Gaussian(sigma=0.3, learned=False).double()(H).log_prob(x).exp()
    torch.testing.assert_close(torch.trapezoid(density, dx=9 / 20_000, dim=0), torch.ones(13, dtype=torch.float64))


def test_pixel_gaussian_is_torch_s_with_a_sigma_for_each_value():
    torch.manual_seed(0)
    mean, log_sigma, x = torch.randn(4, 3, 5, 7), torch.rand(4, 3, 5, 7) - 1, torch.rand(3, 5, 7)
    expected = Normal(mean.sigmoid(), log_sigma.exp()).log_prob(x).sum((-3, -2, -1))
    ours = PixelGaussian()(torch.cat([mean, log_sigma], -3)).log_prob(x)
    torch.testing.assert_close(ours, expected, rtol=0.02, atol=0)


def test_learned_sigma_is_the_root_of_the_mean_square():
    """The sigma of highest likelihood is known: sigma-VAE, Rybkin et al. 2021, sec. 3.2."""
    torch.manual_seed(0)
    h, x = torch.zeros(50, 1, 4, 4), 0.5 + 0.07 * torch.randn(50, 1, 4, 4)
    likelihood = Gaussian(sigma=0.5, learned=True)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-likelihood(h).log_prob(x).mean()).backward()
        optimizer.step()
    assert likelihood(h).base_dist.stddev.mean().item() == pytest.approx(
        (x - 0.5).square().mean().sqrt().item(), rel=1e-3
    )


GRID = torch.linspace(0, 1, 256, dtype=torch.float64).view(-1, 1, 1, 1, 1)  # 256 images of one value
SIXTEENTHS = (torch.arange(17, dtype=torch.float64) * 255 / 16).round().div(255).view(-1, 1, 1, 1, 1)
DISCRETE = {
    "bernoulli": Bernoulli(),
    "discretized_logistic": DiscretizedLogistic("pixel"),
    "discretized_logistic scale=shared": DiscretizedLogistic("shared"),
    "categorical": Categorical(256),
    "categorical 17": Categorical(17),
    "shades": Shades(K=3, widest=0.1, paper=1.0),
    "shades paper=0": Shades(K=2, widest=0.3, paper=0.0),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_mass_sums_to_one(name):
    torch.manual_seed(0)
    likelihood = DISCRETE[name].double()
    h = 6 * torch.randn(40, likelihood.maps(1), 1, 1, dtype=torch.float64)
    x = {"bernoulli": GRID[[0, -1]], "categorical 17": SIXTEENTHS}.get(name, GRID)
    mass = likelihood(h).log_prob(x).exp().sum(0)
    torch.testing.assert_close(mass, torch.ones(40, dtype=torch.float64), atol=1e-9, rtol=0)


def masses(mean, log_s):
    """Of the 256 levels under a logistic, (256,), from the distribution function torch.distributions gives it."""
    base = TransformedDistribution(Uniform(*torch.tensor([0.0, 1.0], dtype=torch.float64)), [SigmoidTransform().inv])
    logistic = TransformedDistribution(base, [AffineTransform(float(mean), math.exp(log_s))])
    edges = (torch.arange(1, 256, dtype=torch.float64) - 0.5) / 255
    return torch.cat([torch.zeros(1), logistic.cdf(edges), torch.ones(1)]).diff()


@pytest.mark.parametrize("log_s", [-6.9, -3.0, 0.0])
@pytest.mark.parametrize("mean", [0.1, 0.5, 0.98])
def test_discretized_logistic_is_the_logistic_s_mass_between_the_edges(mean, log_s):
    ours = log_mass(GRID.flatten(), *torch.tensor([mean, log_s], dtype=torch.float64)).exp()
    torch.testing.assert_close(ours, masses(mean, log_s), atol=1e-12, rtol=1e-6)


def test_discretized_logistic_keeps_its_digits_and_gradients_far_from_the_mean():
    mean = torch.tensor(0.2, requires_grad=True)
    log_s = torch.tensor(-6.5, requires_grad=True)
    far = log_mass(torch.tensor([0.0, 100 / 255, 254 / 255, 1.0]), mean, log_s)
    assert torch.isfinite(far).all()
    assert far[2].item() == pytest.approx(
        -(254 / 255 - 0.5 / 255 - 0.2) * math.exp(6.5), rel=1e-3
    )  # the tail is exponential
    far.sum().backward()
    assert torch.isfinite(mean.grad)
    assert torch.isfinite(log_s.grad)


def test_categorical_is_torch_s():
    torch.manual_seed(0)
    h, x = torch.randn(4, 3, 2 * 256, 2, 3), torch.randint(0, 256, (3, 2, 2, 3))
    logits = h.unflatten(-3, (256, 2)).movedim(-4, -1)
    expected = torch.distributions.Categorical(logits=logits).log_prob(x).sum((-3, -2, -1))
    torch.testing.assert_close(Categorical(256)(h).log_prob(x / 255), expected)


@torch.no_grad()
def test_shades_are_a_mixture_of_paper_and_of_logistics_about_one_colour():
    torch.manual_seed(0)
    likelihood = Shades(K=2, widest=0.1, paper=1.0)
    logits, colour = torch.randn(3), torch.randn(3)
    h = torch.cat([logits, colour]).view(1, 6, 1, 1)
    for x in (torch.ones(3), torch.tensor([1.0, 1.0, 254 / 255]), torch.tensor([0.2, 0.0, 0.6])):
        pi = logits.softmax(0)
        expected = pi[0] * (x == 1).all()
        for k in range(2):
            loc = (colour + likelihood.offset[k]).sigmoid()
            bins = zip(loc, (x * 255).round().long(), strict=True)
            expected = expected + pi[1 + k] * math.prod(masses(c, likelihood.log_s[k])[i] for c, i in bins)
        torch.testing.assert_close(
            likelihood(h).log_prob(x.view(1, 3, 1, 1)), expected.log().float().view(1), rtol=1e-4, atol=0
        )


def test_no_shade_is_wider_than_the_widest():
    likelihood = Shades(K=4, widest=0.1, paper=1.0)
    likelihood.raw_s.data = torch.tensor([-50.0, -3.0, 0.0, 50.0])
    scales = likelihood.log_s.exp().tolist()
    assert scales == sorted(scales, reverse=True)
    assert scales[0] == pytest.approx(0.1, rel=0.02)
    assert scales[-1] == pytest.approx(math.exp(-7), rel=0.02)


def test_a_picture_in_shades_has_paper_or_the_median_shade_and_nothing_between():
    likelihood = Shades(K=3, widest=0.1, paper=1.0)
    pi = torch.tensor([[0.6, 0.1, 0.1, 0.2], [0.4, 0.0, 0.25, 0.35], [0.4, 0.2, 0.25, 0.15], [0.1, 0.5, 0.1, 0.3]])
    h = torch.cat([(pi + 1e-9).log(), torch.zeros(4, 1)], 1).view(4, 5, 1, 1)
    dark, middle, light = likelihood.offset.sigmoid().tolist()
    shown = likelihood.picture(likelihood(h)).flatten().tolist()
    assert shown == pytest.approx([1.0, light, middle, dark])


def test_colours_are_summed():
    """The channels of an image are as independent as its pixels are."""
    torch.manual_seed(0)
    for likelihood in (DiscretizedLogistic("pixel"), Categorical(256), PixelGaussian()):
        per_value = likelihood.maps(1)
        h, x = torch.randn(1, per_value * 3, 1, 1), torch.tensor([0.2, 0.4, 1.0]).view(1, 3, 1, 1)
        each = [likelihood(h[:, c::3]).log_prob(x[:, c : c + 1]) for c in range(3)]
        torch.testing.assert_close(likelihood(h).log_prob(x), sum(each))


def test_eight_bits_are_the_levels_and_nothing_between():
    assert eight_bits.check(torch.arange(256, dtype=torch.uint8).float().div(255)).all()
    assert not eight_bits.check(torch.tensor([0.5, 100.5 / 255, -1 / 255, 256 / 255, math.nan])).any()


def test_seventeen_levels_are_the_digits_and_nothing_between():
    sixteenths = Categorical(17).support
    assert sixteenths.check(SIXTEENTHS).all()
    assert not sixteenths.check(torch.tensor([15 / 255, 0.5 / 255, 17 / 255, -16 / 255, math.nan])).any()


@pytest.mark.parametrize(
    ("likelihood", "pixel"),
    [(Bernoulli(), 100 / 255), (DiscretizedLogistic("pixel"), 100.4 / 255), (Categorical(17), 100 / 255)],
    ids=["Bernoulli on grey", "discretised on continuous", "17 levels on 256"],
)
def test_a_likelihood_that_cannot_hold_the_pixels_is_refused(likelihood, pixel):
    module = SimpleNamespace(vae=SimpleNamespace(likelihood=likelihood))
    for value, fits in ((1.0, True), (pixel, False)):
        data = SimpleNamespace(x=lambda _split, value=value: torch.tensor([0.0, value]))
        with nullcontext() if fits else pytest.raises(UserError, match=type(likelihood).__name__):
            check_support(module, data, OmegaConf.create({"dataset": {"binarize": "none"}}))


def test_grey_cross_entropy_is_what_it_says_and_calls_itself_no_likelihood():
    torch.manual_seed(0)
    h, x = torch.randn(4, 3, 1, 5, 7), torch.rand(3, 1, 5, 7)
    expected = -binary_cross_entropy_with_logits(h, x.expand_as(h), reduction="none").sum((-3, -2, -1))
    torch.testing.assert_close(GreyCrossEntropy()(h).log_prob(x), expected)
    grey = torch.linspace(0, 1, 20_001, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    mass = torch.trapezoid(GreyCrossEntropy()(H).log_prob(grey).exp(), dx=1 / 20_000, dim=0)
    assert (mass < 0.9).all()  # of no density
    assert [choice for choice in choices("likelihood") if not made(choice).normalized] == ["grey_cross_entropy"]


def made(choice):
    node = OmegaConf.merge({"latent_dim": 20}, {"likelihood": OmegaConf.load(CONF / "likelihood" / f"{choice}.yaml")})
    likelihood = instantiate(node.likelihood)
    likelihood.build(2)
    return likelihood


@pytest.mark.parametrize("choice", choices("likelihood"))
def test_shapes_means_and_samples(choice):
    torch.manual_seed(0)
    likelihood = made(choice)
    decoder = likelihood.decoder(MLPDecoder((2, 4, 6), likelihood.maps(2), 20, 30, "tanh"))
    with torch.no_grad():
        h = decoder(2 * torch.randn(5, 3, 20))
    p = likelihood(h)
    assert p.log_prob(torch.zeros(3, 2, 4, 6)).shape == (5, 3)
    assert p.mean.shape == likelihood.picture(p).shape == (5, 3, 2, 4, 6)
    drawn = p.sample((2000,))
    assert likelihood.support.check(drawn).all()
    averaged = PAINTINGS if isinstance(likelihood, AutoregressiveLikelihood) else 2000
    assert ((drawn.mean(0) - p.mean).abs() <= 5 * drawn.std(0) / averaged**0.5 + 1e-3).all()
