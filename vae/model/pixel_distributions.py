"""Pixel distributions that torch does not have. Images are in [0, 1]; 8-bit images have the values i/255."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints


class Levels(constraints.Constraint):
    """Constraint to n grey levels, equally spaced from 0 to 1 and rounded to 8 bits."""

    is_discrete = True

    def __init__(self, n: int) -> None:
        self.n = n

    def check(self, value: Tensor) -> Tensor:
        nearest = self.values().to(value.device)[self.index(value).clamp(0, self.n - 1)]
        return (value - nearest).abs() < 1e-5

    def index(self, x: Tensor) -> Tensor:
        """Return the index of the nearest level, from 0 to n - 1."""
        return (x * (self.n - 1)).round().long()

    def values(self) -> Tensor:
        """Return the n levels, (n,), each rounded to the nearest 8-bit value."""
        return (torch.arange(self.n) * 255 / (self.n - 1)).round() / 255


eight_bits = Levels(256)
HALF_STEP = 0.5 / 255  # half the distance between two 8-bit levels


class BinaryImages(D.Independent):
    """Independent Bernoulli distributions over the pixels of binary images, with logits (..., C, H, W)."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(D.Bernoulli(logits=logits, validate_args=False), 3, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum of log sigmoid(t) over pixels, with t the logit for the value 1, and minus the logit for 0.

        Without gradients, a faster form is used: log sigmoid(t) = min(t, 0) + log sigmoid(|t|), with one logarithm for
        the product of up to 120 factors sigmoid(|t|). Each is at least 1/2, and 2^-120 does not underflow in float32.
        """
        t = ((2 * value - 1) * self.base_dist.logits).flatten(-3)
        if torch.is_grad_enabled():
            return F.logsigmoid(t).sum(-1)
        negative_part = t.clamp(max=0).sum(-1)
        group_size = max(n for n in range(1, 121) if t.shape[-1] % n == 0)
        return negative_part + t.abs_().sigmoid_().unflatten(-1, (-1, group_size)).prod(-1).log_().sum(-1)


def log_mass(x: Tensor, mean: Tensor, log_s: Tensor) -> Tensor:
    """Return the log-probability of the 8-bit levels x under rounded logistics. The end levels extend to infinity.

    Computed as sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), which is accurate in the tails.
    """
    precision, zero = (-log_s).exp(), torch.zeros((), device=x.device)
    bottom, top = x < HALF_STEP, x > 1 - HALF_STEP
    log_cdf = F.logsigmoid((x + HALF_STEP - mean) * precision).where(~top, zero)  # at the upper edge, log sigmoid(b)
    log_sf = F.logsigmoid((mean - x + HALF_STEP) * precision).where(~bottom, zero)  # lower edge, log sigmoid(-a)
    return log_cdf + log_sf + (-torch.expm1(-2 * HALF_STEP * precision)).log().where(~(top | bottom), zero)


class LogisticLevels(D.Distribution):
    """Logistic distributions with mean `loc` and scale exp(`log_s`), rounded to the 256 levels of 8-bit images."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, loc: Tensor, log_s: Tensor) -> None:
        self.loc, self.log_s = torch.broadcast_tensors(loc, log_s)
        super().__init__(self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return log_mass(value, self.loc, self.log_s)

    @property
    def mean(self) -> Tensor:
        """Mean of the logistic clamped to [0, 1], the integral of P(x > t). The effect of rounding is negligible."""
        s = self.log_s.exp()
        return s * (F.softplus(self.loc / s) - F.softplus((self.loc - 1) / s))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        u = torch.rand((*sample_shape, *self.loc.shape), device=self.loc.device).clamp(1e-7, 1 - 1e-7)
        return ((self.loc + u.logit() * self.log_s.exp()).clamp(0, 1) * 255).round() / 255


class CategoricalLevels(D.Distribution):
    """Categorical distributions over the n values of `levels`, with logits (..., n, C, H, W)."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor, levels: Levels) -> None:
        self.log_p, self.levels = logits.log_softmax(-4), levels
        super().__init__(logits.shape[:-4] + logits.shape[-3:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        index = self.levels.index(value).unsqueeze(-4)
        batch = torch.broadcast_shapes(index.shape[:-4], self.log_p.shape[:-4])
        index = index.expand(*batch, 1, *self.log_p.shape[-3:])
        return self.log_p.expand(*batch, *self.log_p.shape[-4:]).gather(-4, index).squeeze(-4)

    @property
    def mean(self) -> Tensor:
        return torch.einsum("...nchw,n->...chw", self.log_p.exp(), self.levels.values().to(self.log_p))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        index = D.Categorical(logits=self.log_p.movedim(-4, -1), validate_args=False).sample(torch.Size(sample_shape))
        return self.levels.values().to(self.log_p)[index]


class OneHotChannels(constraints.Constraint):
    """Constraint to images (C, H, W) that have, at each position, a 1 in one channel and 0 in the others."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return ((value == 0) | (value == 1)) & (value.sum(-3, keepdim=True) == 1)


class OneHotCategorical(D.Distribution):
    """Categorical distributions over the channels of one-hot images (C, H, W), with logits (..., C, H, W)."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor) -> None:
        self.log_p = logits.log_softmax(-3)
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.log_p).sum((-3, -2, -1))

    @property
    def mean(self) -> Tensor:
        return self.log_p.exp()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        index = D.Categorical(logits=self.log_p.movedim(-3, -1), validate_args=False).sample(torch.Size(sample_shape))
        return F.one_hot(index, self.event_shape[0]).movedim(-1, -3).to(self.log_p)


class SpriteDistribution(D.Distribution):
    """Distribution over images (C, H, W) in which each pixel is a mixture of the background and of K shades.

    `log_pi`, (..., 1 + K, H, W), are the log mixture weights of the background and the shades. The background has
    exactly the value `background`. Shade k is a `LogisticLevels` with mean `loc`, (..., K, C, H, W), and log-scale
    `log_s`, (K,).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, log_pi: Tensor, loc: Tensor, log_s: Tensor, background: float) -> None:
        self.log_pi, self.loc, self.background = log_pi, loc, background
        self.log_s = log_s[:, None, None, None]
        super().__init__(loc.shape[:-4], loc.shape[-3:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        shades = log_mass(value.unsqueeze(-4), self.loc, self.log_s).sum(-3)  # (..., K, H, W)
        is_background = (eight_bits.index(value) == round(self.background * 255)).all(-3, keepdim=True)
        background = is_background.log().expand_as(shades[..., :1, :, :])  # log 1 or log 0
        return (self.log_pi + torch.cat([background, shades], -3)).logsumexp(-3).sum((-2, -1))

    @property
    def mean(self) -> Tensor:
        pi_background, pi_shades = self.log_pi.exp().unsqueeze(-3).split([1, self.loc.shape[-4]], -4)
        shades = (pi_shades * LogisticLevels(self.loc, self.log_s).mean).sum(-4)
        return self.background * pi_background.squeeze(-4) + shades

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        k = D.Categorical(logits=self.log_pi.movedim(-3, -1), validate_args=False).sample(torch.Size(sample_shape))
        return self.select(k, LogisticLevels(self.loc, self.log_s).sample(sample_shape))

    def select(self, k: Tensor, shades: Tensor) -> Tensor:
        """Return the image of component `k` at each pixel, (..., H, W): 0 is the background, k > 0 is shades[k - 1]."""
        shade = (k - 1).clamp(min=0)[..., None, None, :, :].expand(*k.shape[:-2], 1, *self.event_shape)
        return shades.gather(-4, shade).squeeze(-4).where(k.unsqueeze(-3) > 0, self.background)
