"""Likelihoods are normalised over their support and agree with torch.distributions."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.distributions import AffineTransform, Normal, SigmoidTransform, TransformedDistribution, Uniform
from torch.nn.functional import binary_cross_entropy_with_logits

from vae.config.command_line import choices
from vae.config.schema import CONF
from vae.errors import UserError
from vae.model.autoregressive import MEAN_SAMPLES, AutoregressiveLikelihood
from vae.model.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    GreyCrossEntropy,
    OneHot,
    PixelGaussian,
    Shades,
)
from vae.model.pixel_distributions import eight_bits, log_mass
from vae.training.part_checks import check_support

H = torch.linspace(-6, 6, 13, dtype=torch.float64).view(-1, 1, 1, 1)  # logits of thirteen images of one pixel


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
        log_prob = Bernoulli()(h).log_prob(x)
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-6, atol=1e-5)


def test_continuous_bernoulli_density_integrates_to_one():
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    density = ContinuousBernoulli()(H).log_prob(x).exp()
    torch.testing.assert_close(torch.trapezoid(density, dx=1 / 20_000, dim=0), torch.ones(13, dtype=torch.float64))


def test_gaussian_matches_torch_and_integrates_to_one():
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


def test_pixel_gaussian_matches_torch():
    torch.manual_seed(0)
    mean, log_sigma, x = torch.randn(4, 3, 5, 7), torch.rand(4, 3, 5, 7) - 1, torch.rand(3, 5, 7)
    expected = Normal(mean.sigmoid(), log_sigma.exp()).log_prob(x).sum((-3, -2, -1))
    ours = PixelGaussian()(torch.cat([mean, log_sigma], -3)).log_prob(x)
    torch.testing.assert_close(ours, expected, rtol=0.02, atol=0)


def test_one_hot_matches_torch_and_its_samples_have_its_mean():
    torch.manual_seed(0)
    h = torch.randn(3, 2, 4, 1, 7)
    x = torch.nn.functional.one_hot(torch.randint(4, (2, 1, 7)), 4).movedim(-1, -3).float()
    likelihood = OneHot()
    likelihood.build(4)
    p = likelihood(h)
    expected = torch.distributions.OneHotCategorical(logits=h.movedim(-3, -1))
    torch.testing.assert_close(p.log_prob(x), expected.log_prob(x.movedim(-3, -1)).sum((-2, -1)))
    torch.testing.assert_close(p.mean, expected.mean.movedim(-1, -3))
    samples = p.sample((4000,))
    assert likelihood.support.check(samples).all()
    torch.testing.assert_close(samples.mean(0), p.mean, atol=0.04, rtol=0)
    assert not likelihood.support.check(torch.ones(4, 1, 7)).any()
    assert likelihood.dimensions(4 * 7) == 7


def test_learned_sigma_is_the_root_mean_square_error():
    """The maximum likelihood estimate of sigma has a closed form (Rybkin et al. 2021, sec. 3.2)."""
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


LEVELS_256 = torch.linspace(0, 1, 256, dtype=torch.float64).view(-1, 1, 1, 1, 1)  # 256 images of one value
LEVELS_17 = (torch.arange(17, dtype=torch.float64) * 255 / 16).round().div(255).view(-1, 1, 1, 1, 1)
DISCRETE = {
    "bernoulli": Bernoulli(),
    "discretized_logistic": DiscretizedLogistic("pixel"),
    "discretized_logistic scale=shared": DiscretizedLogistic("shared"),
    "categorical": Categorical(256),
    "categorical 17": Categorical(17),
    "shades": Shades(K=3, max_scale=0.1, background=1.0),
    "shades background=0": Shades(K=2, max_scale=0.3, background=0.0),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_mass_sums_to_one(name):
    torch.manual_seed(0)
    likelihood = DISCRETE[name].double()
    h = 6 * torch.randn(40, likelihood.h_channels(1), 1, 1, dtype=torch.float64)
    x = {"bernoulli": LEVELS_256[[0, -1]], "categorical 17": LEVELS_17}.get(name, LEVELS_256)
    mass = likelihood(h).log_prob(x).exp().sum(0)
    torch.testing.assert_close(mass, torch.ones(40, dtype=torch.float64), atol=1e-9, rtol=0)


def logistic_masses(mean, log_s):
    """Return the probabilities of the 256 levels under a logistic, (256,), from the cdf of torch.distributions."""
    base = TransformedDistribution(Uniform(*torch.tensor([0.0, 1.0], dtype=torch.float64)), [SigmoidTransform().inv])
    logistic = TransformedDistribution(base, [AffineTransform(float(mean), math.exp(log_s))])
    edges = (torch.arange(1, 256, dtype=torch.float64) - 0.5) / 255
    return torch.cat([torch.zeros(1), logistic.cdf(edges), torch.ones(1)]).diff()


@pytest.mark.parametrize("log_s", [-6.9, -3.0, 0.0])
@pytest.mark.parametrize("mean", [0.1, 0.5, 0.98])
def test_discretized_logistic_is_a_difference_of_cdfs(mean, log_s):
    ours = log_mass(LEVELS_256.flatten(), *torch.tensor([mean, log_s], dtype=torch.float64)).exp()
    torch.testing.assert_close(ours, logistic_masses(mean, log_s), atol=1e-12, rtol=1e-6)


def test_discretized_logistic_is_accurate_in_the_tails():
    mean = torch.tensor(0.2, requires_grad=True)
    log_s = torch.tensor(-6.5, requires_grad=True)
    log_prob = log_mass(torch.tensor([0.0, 100 / 255, 254 / 255, 1.0]), mean, log_s)
    assert torch.isfinite(log_prob).all()
    assert log_prob[2].item() == pytest.approx(
        -(254 / 255 - 0.5 / 255 - 0.2) * math.exp(6.5), rel=1e-3
    )  # the tail is exponential
    log_prob.sum().backward()
    assert torch.isfinite(mean.grad)
    assert torch.isfinite(log_s.grad)


def test_categorical_matches_torch():
    torch.manual_seed(0)
    h, x = torch.randn(4, 3, 2 * 256, 2, 3), torch.randint(0, 256, (3, 2, 2, 3))
    logits = h.unflatten(-3, (256, 2)).movedim(-4, -1)
    expected = torch.distributions.Categorical(logits=logits).log_prob(x).sum((-3, -2, -1))
    torch.testing.assert_close(Categorical(256)(h).log_prob(x / 255), expected)


@torch.no_grad()
def test_shades_is_a_mixture_of_the_background_and_logistics():
    torch.manual_seed(0)
    likelihood = Shades(K=2, max_scale=0.1, background=1.0)
    logits, colour = torch.randn(3), torch.randn(3)
    h = torch.cat([logits, colour]).view(1, 6, 1, 1)
    for x in (torch.ones(3), torch.tensor([1.0, 1.0, 254 / 255]), torch.tensor([0.2, 0.0, 0.6])):
        pi = logits.softmax(0)
        expected = pi[0] * (x == 1).all()
        for k in range(2):
            loc = (colour + likelihood.offset[k]).sigmoid()
            bins = zip(loc, (x * 255).round().long(), strict=True)
            expected = expected + pi[1 + k] * math.prod(logistic_masses(c, likelihood.log_s[k])[i] for c, i in bins)
        torch.testing.assert_close(
            likelihood(h).log_prob(x.view(1, 3, 1, 1)), expected.log().float().view(1), rtol=1e-4, atol=0
        )


def test_scales_of_shades_are_bounded():
    likelihood = Shades(K=4, max_scale=0.1, background=1.0)
    likelihood.raw_s.data = torch.tensor([-50.0, -3.0, 0.0, 50.0])
    scales = likelihood.log_s.exp().tolist()
    assert scales == sorted(scales, reverse=True)
    assert scales[0] == pytest.approx(0.1, rel=0.02)
    assert scales[-1] == pytest.approx(math.exp(-7), rel=0.02)


def test_display_image_of_shades_is_the_background_or_the_median_shade():
    likelihood = Shades(K=3, max_scale=0.1, background=1.0)
    pi = torch.tensor([[0.6, 0.1, 0.1, 0.2], [0.4, 0.0, 0.25, 0.35], [0.4, 0.2, 0.25, 0.15], [0.1, 0.5, 0.1, 0.3]])
    h = torch.cat([(pi + 1e-9).log(), torch.zeros(4, 1)], 1).view(4, 5, 1, 1)
    dark, middle, light = likelihood.offset.sigmoid().tolist()
    image = likelihood.display_image(likelihood(h)).flatten().tolist()
    assert image == pytest.approx([1.0, light, middle, dark])


def test_log_prob_is_the_sum_over_channels():
    """Channels are independent, like pixels."""
    torch.manual_seed(0)
    for likelihood in (DiscretizedLogistic("pixel"), Categorical(256), PixelGaussian()):
        channels_per_value = likelihood.h_channels(1)
        h, x = torch.randn(1, channels_per_value * 3, 1, 1), torch.tensor([0.2, 0.4, 1.0]).view(1, 3, 1, 1)
        per_channel = [likelihood(h[:, c::3]).log_prob(x[:, c : c + 1]) for c in range(3)]
        torch.testing.assert_close(likelihood(h).log_prob(x), sum(per_channel))


def test_eight_bits_accepts_the_256_levels_only():
    assert eight_bits.check(torch.arange(256, dtype=torch.uint8).float().div(255)).all()
    assert not eight_bits.check(torch.tensor([0.5, 100.5 / 255, -1 / 255, 256 / 255, math.nan])).any()


def test_seventeen_levels_accepts_the_values_of_the_digits_only():
    seventeen_levels = Categorical(17).support
    assert seventeen_levels.check(LEVELS_17).all()
    assert not seventeen_levels.check(torch.tensor([15 / 255, 0.5 / 255, 17 / 255, -16 / 255, math.nan])).any()


@pytest.mark.parametrize(
    ("likelihood", "pixel"),
    [(Bernoulli(), 100 / 255), (DiscretizedLogistic("pixel"), 100.4 / 255), (Categorical(17), 100 / 255)],
    ids=["bernoulli on grey levels", "discretized logistic on continuous values", "17 levels on 256 levels"],
)
def test_pixels_outside_the_support_raise_an_error(likelihood, pixel):
    module = SimpleNamespace(vae=SimpleNamespace(likelihood=likelihood))
    for value, in_support in ((1.0, True), (pixel, False)):
        data = SimpleNamespace(x=lambda _split, value=value: torch.tensor([0.0, value]))
        with (
            nullcontext()
            if in_support
            else pytest.raises(UserError, match=f"{type(likelihood).__name__}.* likelihood=auto")
        ):
            check_support(module, data, OmegaConf.create({"dataset": {"binarize": "none"}}))


def test_grey_cross_entropy_is_not_normalized():
    torch.manual_seed(0)
    h, x = torch.randn(4, 3, 1, 5, 7), torch.rand(3, 1, 5, 7)
    expected = -binary_cross_entropy_with_logits(h, x.expand_as(h), reduction="none").sum((-3, -2, -1))
    torch.testing.assert_close(GreyCrossEntropy()(h).log_prob(x), expected)
    grey = torch.linspace(0, 1, 20_001, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    mass = torch.trapezoid(GreyCrossEntropy()(H).log_prob(grey).exp(), dx=1 / 20_000, dim=0)
    assert (mass < 0.9).all()  # not a density
    unnormalized = [choice for choice in LIKELIHOODS if not build_likelihood(choice).normalized]
    assert unnormalized == ["grey_cross_entropy"]


LIKELIHOODS = [choice for choice in choices("likelihood") if choice != "auto"]  # auto: one of the others


def build_likelihood(choice):
    node = OmegaConf.merge({"latent_dim": 20}, {"likelihood": OmegaConf.load(CONF / "likelihood" / f"{choice}.yaml")})
    likelihood = instantiate(node.likelihood)
    likelihood.build(2)
    return likelihood


@pytest.mark.parametrize("choice", LIKELIHOODS)
def test_shapes_means_and_samples(choice):
    torch.manual_seed(0)
    likelihood = build_likelihood(choice)
    decoder = likelihood.wrap_decoder(lambda _z: torch.randn(5, 3, likelihood.h_channels(2), 4, 6))
    p = likelihood(decoder(torch.randn(5, 3, 20)))
    assert p.log_prob(torch.zeros(3, 2, 4, 6)).shape == (5, 3)
    assert p.mean.shape == likelihood.display_image(p).shape == (5, 3, 2, 4, 6)
    samples = p.sample((2000,))
    assert likelihood.support.check(samples).all()
    n = MEAN_SAMPLES if isinstance(likelihood, AutoregressiveLikelihood) else 2000
    assert ((samples.mean(0) - p.mean).abs() <= 5 * samples.std(0) / n**0.5 + 1e-3).all()
