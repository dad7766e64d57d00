"""Parts of a model that do not return what the others need: each is refused in one line that names its key."""

from types import SimpleNamespace

import pytest
import torch
from conftest import compose_config
from torch.distributions import (
    AffineTransform,
    Cauchy,
    Independent,
    Laplace,
    Normal,
    Poisson,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)

from vae.errors import UserError
from vae.model.likelihoods import Bernoulli
from vae.model.networks import MLPDecoder
from vae.model.objectives import ELBO
from vae.model.posteriors import DiagonalGaussian
from vae.model.priors import Prior
from vae.training.build import build
from vae.training.part_checks import check_parts, check_support

SHAPE = (1, 6, 5)


def units(loc, scale, family=Laplace):
    return Independent(family(loc, scale, validate_args=False), 1, validate_args=False)


def logistic_units(loc, scale):
    base = Uniform(torch.zeros_like(loc), 1.0, validate_args=False)
    transforms = [SigmoidTransform().inv, AffineTransform(loc, scale)]
    return Independent(TransformedDistribution(base, transforms, validate_args=False), 1, validate_args=False)


class PriorOfUnits(Prior):
    def forward(self, _q):
        return Laplace(self.zero, self.zero + 1, validate_args=False)


class PriorOfOtherLatents(Prior):
    def forward(self, _q):
        return units(torch.zeros(7), torch.ones(7))


class PriorIsATensor(Prior):
    def forward(self, _q):
        return self.zero


class PriorWithoutQ(Prior):
    def forward(self):
        return units(self.zero, self.zero + 1)


class PriorWithoutForward(Prior):
    pass


class PriorWithoutMean(Prior):
    """A logistic distribution, of which torch does not know the mean."""

    def forward(self, _q):
        return logistic_units(self.zero, self.zero + 1)


class CauchyPrior(Prior):
    family = Cauchy

    def forward(self, _q):
        return units(self.zero, self.zero + 1, self.family)


class CauchyPosterior(DiagonalGaussian):
    family = Cauchy

    def forward(self, h):
        loc, log_scale = h.chunk(2, -1)
        return units(loc, log_scale.exp(), self.family)


class CenteredCauchy(Cauchy):
    """A Cauchy distribution that returns its mode as its mean."""

    mean = Cauchy.mode


class CenteredCauchyPrior(CauchyPrior):
    family = CenteredCauchy


class CenteredCauchyPosterior(CauchyPosterior):
    family = CenteredCauchy


class PosteriorWithoutSamples(DiagonalGaussian):
    def forward(self, h):
        return Independent(Poisson(h.chunk(2, -1)[0].exp(), validate_args=False), 1, validate_args=False)


class PosteriorWithoutMean(DiagonalGaussian):
    def forward(self, h):
        loc, log_scale = h.chunk(2, -1)
        return logistic_units(loc, log_scale.exp())


class PosteriorOfHalf(DiagonalGaussian):
    def forward(self, h):
        mean = h.chunk(2, -1)[0][:, ::2]
        return units(mean, torch.ones_like(mean), Normal)


class PosteriorIsATuple(DiagonalGaussian):
    def forward(self, h):
        return h.chunk(2, -1)


class LikelihoodOfRows(Bernoulli):
    def forward(self, h):
        return units(h, torch.ones_like(h))


class LikelihoodWithoutSupport(Bernoulli):
    support = 17


class MeanOfTheBatch(ELBO):
    def __call__(self, terms, _weight):
        return terms.elbo.mean()


class ValuePerSample(ELBO):
    def __call__(self, terms, _weight):
        return terms.log_w


class OfOneImage(ELBO):
    def __call__(self, terms, _weight):
        return terms.elbo[:1]


class NotAnObjective:
    def __init__(self, K):
        self.K = K


class PosteriorWithoutOutputs(torch.nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim


class FlatDecoder(MLPDecoder):
    def forward(self, z):
        return super().forward(z).flatten(-3)


def check(*overrides):
    """Check the parts of a model on binary images of the shape (1, 6, 5)."""
    cfg = compose_config("latent_dim=4", "hidden_size=8", *overrides)
    x = (torch.arange(60.0).view(2, *SHAPE) % 3 == 0).float()
    data = SimpleNamespace(x=lambda *_: x, y=lambda *_: (), shape=SHAPE)
    module = build(cfg, SHAPE)
    check_support(module, data, cfg)
    check_parts(module, data, cfg.latent_dim)


@pytest.mark.parametrize(
    ("key", "part", "message"),
    [
        ("prior", "PriorOfUnits", r"batch shape \(4,\) and the event shape \(\); expected \(\) or \(2,\) and \(4,\)"),
        ("prior", "PriorOfOtherLatents", r"event shape \(7,\); expected \(\) or \(2,\) and \(4,\)"),
        ("prior", "PriorIsATensor", "returned a Tensor; expected a distribution"),
        ("prior", "PriorWithoutQ", "takes 1 positional argument but 2 were given"),
        ("prior", "PriorWithoutForward", 'missing the required "forward"'),
        ("prior", "PriorWithoutMean", "has no sample or mean"),
        ("prior", "CauchyPrior", "mean of its distribution is not finite"),
        ("posterior", "CauchyPosterior", "mean of its distribution is not finite"),
        ("posterior", "PosteriorWithoutSamples", "has no rsample"),
        ("posterior", "PosteriorWithoutMean", "has no mean"),
        ("posterior", "PosteriorOfHalf", r"event shape \(2,\); expected \(2,\) and \(4,\)"),
        ("posterior", "PosteriorIsATuple", "returned a tuple; expected a distribution"),
        ("likelihood", "LikelihoodOfRows", r"batch shape \(3, 2, 1, 6\) .*; expected \(3, 2\) and \(1, 6, 5\)"),
        ("likelihood", "LikelihoodWithoutSupport", "support is 17; expected"),
        ("posterior", "PosteriorWithoutOutputs", "outputs is None; expected the number"),
        ("objective", "NotAnObjective", "NotAnObjective is not a subclass of Objective"),
        ("objective", "MeanOfTheBatch", r"returned the shape \(\); expected .* \(2,\)"),
        ("objective", "OfOneImage", r"returned the shape \(1,\); expected .* \(2,\)"),
        ("objective", "ValuePerSample", r"returned the shape \(5, 2\); expected .* \(2,\)"),
        ("architecture.decoder", "FlatDecoder", r"returned the shape \(3, 2, 30\); expected .* \(3, 2, 1, 6, 5\)"),
    ],
)
def test_a_part_that_does_not_return_what_the_others_need_is_refused(key, part, message):
    with pytest.raises(UserError, match=f"^{key}: .*{message}"):
        check(f"{key}._target_=test_part_checks.{part}", "objective.K=5")


@pytest.mark.parametrize("part", ["prior", "posterior"])
def test_a_distribution_without_a_mean_can_return_its_mode(part):
    check(f"{part}._target_=test_part_checks.CenteredCauchy{part.capitalize()}")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("prior._target_=test_part_checks.PriorOfUnits", "prior: it returned a distribution"),
        ("prior._target_=no_such_file.Prior", "prior: Error loading 'no_such_file.Prior': ModuleNotFoundError"),
        ("prior._target_=test_part_checks.NoSuch", "prior: Error loading 'test_part_checks.NoSuch'"),
        ("+prior.df=5", "prior: Error in call to target 'vae.model.priors.StandardNormal': TypeError"),
        ("~prior._target_", "prior._target_: missing; expected a class"),
    ],
)
def test_a_wrong_part_is_one_line_before_anything_is_written(typed, message, cli, tmp_path):
    code, _, printed = cli(typed)
    assert code == 2
    assert printed.startswith(message)
    assert printed.count("\n") == 1
    assert not (tmp_path / "outputs").exists()
