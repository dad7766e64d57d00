"""Distributions over the values of pixels that torch has none for. Images are in [0, 1]; those of 8 bits are i/255."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints


class Levels(constraints.Constraint):
    """Images of 8 bits in which only n grey levels occur, equally spaced from 0 to 1."""

    is_discrete = True

    def __init__(self, n: int) -> None:
        self.n = n

    def check(self, value: Tensor) -> Tensor:
        nearest = self.values().to(value.device)[self.level(value).clamp(0, self.n - 1)]
        return (value - nearest).abs() < 1e-5

    def level(self, x: Tensor) -> Tensor:
        """Which level a value is, 0 to n - 1."""
        return (x * (self.n - 1)).round().long()

    def values(self) -> Tensor:
        """The n values, each the nearest there is in 8 bits."""
        return (torch.arange(self.n) * 255 / (self.n - 1)).round() / 255


eight_bits = Levels(256)
HALF = 0.5 / 255  # of the distance between two levels of 8 bits


class BinaryImages(D.Independent):
    """Images (C, H, W) whose values are 0 or 1 and nothing between, by their logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(D.Bernoulli(logits=logits, validate_args=False), 3, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum of log sigmoid(t), of which t is the logit or, where a value is 0, its negative.

        Without a gradient, log sigmoid(t) = min(t, 0) + log sigmoid(|t|), and one logarithm is taken of up to 120
        factors sigmoid(|t|): each is 1/2 or more, and 2^-120 a float32 like any other.
        """
        t = ((2 * value - 1) * self.base_dist.logits).flatten(-3)
        if torch.is_grad_enabled():
            return F.logsigmoid(t).sum(-1)
        wrong = t.clamp(max=0).sum(-1)
        together = max(n for n in range(1, 121) if t.shape[-1] % n == 0)
        return wrong + t.abs_().sigmoid_().unflatten(-1, (-1, together)).prod(-1).log_().sum(-1)


def log_mass(x: Tensor, mean: Tensor, log_s: Tensor) -> Tensor:
    """log of the mass that logistics put on the levels x; the end levels reach to -inf and +inf.

    By sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), of which every factor keeps its digits.
    """
    precision, zero = (-log_s).exp(), torch.zeros((), device=x.device)
    bottom, top = x < HALF, x > 1 - HALF
    above = F.logsigmoid((x + HALF - mean) * precision).where(~top, zero)
    below = F.logsigmoid((mean - x + HALF) * precision).where(~bottom, zero)
    return above + below + (-torch.expm1(-2 * HALF * precision)).log().where(~(top | bottom), zero)


class LogisticLevels(D.Distribution):
    """A logistic of this mean and scale s, rounded to the nearest of 256 levels of [0, 1]."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, loc: Tensor, log_s: Tensor) -> None:
        self.loc, self.log_s = torch.broadcast_tensors(loc, log_s)
        super().__init__(self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return log_mass(value, self.loc, self.log_s)

    @property
    def mean(self) -> Tensor:
        """That of a logistic cut off at 0 and 1, the integral of P(x > t); rounding to levels hardly changes it."""
        s = self.log_s.exp()
        return s * (F.softplus(self.loc / s) - F.softplus((self.loc - 1) / s))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        u = torch.rand((*sample_shape, *self.loc.shape), device=self.loc.device).clamp(1e-7, 1 - 1e-7)
        return ((self.loc + u.logit() * self.log_s.exp()).clamp(0, 1) * 255).round() / 255


class CategoricalLevels(D.Distribution):
    """Any distribution over the values of `levels`, n of them, by its logits, (..., n, C, H, W)."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor, levels: Levels) -> None:
        self.log_p, self.levels = logits.log_softmax(-4), levels
        super().__init__(logits.shape[:-4] + logits.shape[-3:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        index = self.levels.level(value).unsqueeze(-4)
        batch = torch.broadcast_shapes(index.shape[:-4], self.log_p.shape[:-4])
        index = index.expand(*batch, 1, *self.log_p.shape[-3:])
        return self.log_p.expand(*batch, *self.log_p.shape[-4:]).gather(-4, index).squeeze(-4)

    @property
    def mean(self) -> Tensor:
        return torch.einsum("...nchw,n->...chw", self.log_p.exp(), self.levels.values().to(self.log_p))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        drawn = D.Categorical(logits=self.log_p.movedim(-4, -1), validate_args=False).sample(torch.Size(sample_shape))
        return self.levels.values().to(self.log_p)[drawn]


class SpriteDistribution(D.Distribution):
    """Each pixel is paper, or paint of one of K shades: a mixture over images (C, H, W).

    `log_pi`, (..., 1 + K, H, W), are the log-probabilities of paper and of each shade; `loc`, (..., K, C, H, W), the
    colours of the shades, each a logistic of log-scale `log_s`, (K,), rounded to 256 levels; paper is exactly `paper`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, log_pi: Tensor, loc: Tensor, log_s: Tensor, paper: float) -> None:
        self.log_pi, self.loc, self.paper = log_pi, loc, paper
        self.log_s = log_s[:, None, None, None]
        super().__init__(loc.shape[:-4], loc.shape[-3:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        shades = log_mass(value.unsqueeze(-4), self.loc, self.log_s).sum(-3)  # (..., K, H, W)
        bare = (eight_bits.level(value) == round(self.paper * 255)).all(-3, keepdim=True).log()  # log 1 or log 0
        bare = bare.expand_as(shades[..., :1, :, :])
        return (self.log_pi + torch.cat([bare, shades], -3)).logsumexp(-3).sum((-2, -1))

    @property
    def mean(self) -> Tensor:
        bare, painted = self.log_pi.exp().unsqueeze(-3).split([1, self.loc.shape[-4]], -4)
        return self.paper * bare.squeeze(-4) + (painted * LogisticLevels(self.loc, self.log_s).mean).sum(-4)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        which = D.Categorical(logits=self.log_pi.movedim(-3, -1), validate_args=False).sample(torch.Size(sample_shape))
        return self.chosen(which, LogisticLevels(self.loc, self.log_s).sample(sample_shape))

    def chosen(self, which: Tensor, shades: Tensor) -> Tensor:
        """The image that is paper where `which`, (..., H, W), is 0, and elsewhere that one of `shades`."""
        shade = (which - 1).clamp(min=0)[..., None, None, :, :].expand(*which.shape[:-2], 1, *self.event_shape)
        return shades.gather(-4, shade).squeeze(-4).where(which.unsqueeze(-3) > 0, self.paper)
