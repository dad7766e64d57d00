"""p(x|z): what the decoder's output h says of the pixels.

A likelihood says how many maps (H, W) of h it needs for images of C channels, and of which pixels it is a
distribution, its `support`. Called with h, (..., maps, H, W), it returns a distribution over images (C, H, W) whose
`log_prob` is in nats. All pixels are independent given z. Images are in [0, 1]; those of 8 bits are i/255.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints

LOG_SIGMA = -6.0  # the least log of a Gaussian's standard deviation, softly, or its density has no bound


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


def at_least(x: Tensor, bound: float) -> Tensor:
    """x where it is well above the bound, and softly no less than the bound."""
    return bound + F.softplus(x - bound)


class Likelihood(nn.Module):
    """What all share. Of a likelihood that is not `normalized`, no record is called elbo, log_likelihood or log_px."""

    support: constraints.Constraint
    normalized = True

    def maps(self, channels: int) -> int:
        """How many maps h has for images of so many channels."""
        return channels

    def picture(self, p_x: D.Distribution) -> Tensor:
        """The image to show for p(x|z): its mean, unless another is truer to what such images look like."""
        return p_x.mean


def independent(pixels: D.Distribution) -> D.Distribution:
    """One distribution over images (C, H, W) from one over each of their values."""
    return D.Independent(pixels, 3, validate_args=False)


class Bits(D.Bernoulli):
    """A Bernoulli whose values are 0 or 1 and nothing between, so that log p is one logsigmoid, of h or of -h."""

    def log_prob(self, value: Tensor) -> Tensor:
        return F.logsigmoid((2 * value - 1) * self.logits)


class Bernoulli(Likelihood):
    """x in {0, 1}; h is the logit (Kingma & Welling 2013, app. C.1)."""

    support: constraints.Constraint = constraints.boolean

    def forward(self, h: Tensor) -> D.Distribution:
        return independent(Bits(logits=h, validate_args=False))


class GreyCrossEntropy(Likelihood):
    """The cross-entropy of grey levels with p, which many tutorials call a likelihood: it is none, of no distribution.

    Offered to compare with their figures, under its own name.
    """

    support = constraints.unit_interval
    normalized = False

    def forward(self, h: Tensor) -> D.Distribution:
        return independent(D.Bernoulli(logits=h, validate_args=False))


class ContinuousBernoulli(Likelihood):
    """A density over x in [0, 1]; h is the logit (Loaiza-Ganem & Cunningham 2019)."""

    support = constraints.unit_interval

    def forward(self, h: Tensor) -> D.Distribution:
        return independent(D.ContinuousBernoulli(logits=h, validate_args=False))


class Gaussian(Likelihood):
    """A density of the pixel values, in units of [0, 1], so it may be above 1 and its log above 0; mean sigmoid(h).

    One `sigma` for all pixels: fixed, or where it begins if it is `learned` (Rybkin et al. 2021).
    """

    support = constraints.real

    def __init__(self, sigma: float, learned: bool) -> None:
        super().__init__()
        above = math.log(sigma) - LOG_SIGMA
        self.raw = nn.Parameter(torch.tensor(LOG_SIGMA + math.log(math.expm1(above))), requires_grad=learned)

    @property
    def sigma(self) -> Tensor:
        return at_least(self.raw, LOG_SIGMA).exp()

    def forward(self, h: Tensor) -> D.Distribution:
        return independent(D.Normal(h.sigmoid(), self.sigma, validate_args=False))


class PixelGaussian(Likelihood):
    """As `Gaussian`, with a variance for each pixel from the decoder (Kingma & Welling 2013, app. C.2)."""

    support = constraints.real

    def maps(self, channels: int) -> int:
        return 2 * channels

    def forward(self, h: Tensor) -> D.Distribution:
        mean, log_sigma = h.chunk(2, -3)
        return independent(D.Normal(mean.sigmoid(), at_least(log_sigma, LOG_SIGMA).exp(), validate_args=False))


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


class DiscretizedLogistic(Likelihood):
    """x of 8 bits: a logistic rounded to the 256 levels (Kingma et al. 2016).

    h is the mean before a sigmoid and, with `scale` "pixel", the log of the scale s of each value; with "shared" one s
    is learned.
    """

    support = eight_bits

    def __init__(self, scale: str) -> None:
        super().__init__()
        self.per_pixel = scale == "pixel"
        self.log_s = nn.Parameter(torch.tensor(-2.0))

    def maps(self, channels: int) -> int:
        return 2 * channels if self.per_pixel else channels

    def forward(self, h: Tensor) -> D.Distribution:
        mean, log_s = h.chunk(2, -3) if self.per_pixel else (h, torch.zeros(()))
        return independent(LogisticLevels(mean.sigmoid(), at_least(self.log_s + log_s, -7)))


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


class Categorical(Likelihood):
    """Any distribution over so many grey levels, equally spaced; h is their logits. For small images, or few levels."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.support: Levels = Levels(levels)

    def maps(self, channels: int) -> int:
        return self.support.n * channels

    def forward(self, h: Tensor) -> D.Distribution:
        n = self.support.n
        return independent(CategoricalLevels(h.unflatten(-3, (n, h.shape[-3] // n)), self.support))


class PaintedPixels(D.Distribution):
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


class Shades(Likelihood):
    """x of 8 bits, drawn as sprites are: on bare paper, in few shades of each colour.

    h is, for each pixel, the logits of paper and of each of K shades, and one colour; a shade is that colour made
    darker or lighter by an offset that is the same everywhere and learned, as its scale is, up to `widest`: were it
    wide, a grey would do for every colour, and none be worth its code. The picture has no colour between the shades:
    paper where that is likelier than paint, else the median shade.
    """

    support = eight_bits

    def __init__(self, K: int, widest: float, paper: float) -> None:
        super().__init__()
        self.K, self.widest, self.paper = K, widest, paper
        self.offset = nn.Parameter(torch.linspace(-3, 3, K))
        self.raw_s = nn.Parameter(torch.zeros(K))

    @property
    def log_s(self) -> Tensor:
        """(K,), of scales below `widest`."""
        return at_least(math.log(self.widest) - F.softplus(self.raw_s), -7)

    def maps(self, channels: int) -> int:
        return 1 + self.K + channels

    def forward(self, h: Tensor) -> D.Distribution:
        logits, colour = h.split([1 + self.K, h.shape[-3] - 1 - self.K], -3)
        loc = (colour.unsqueeze(-4) + self.offset[:, None, None, None]).sigmoid()
        return PaintedPixels(logits.log_softmax(-3), loc, self.log_s, self.paper)

    def picture(self, p_x: D.Distribution) -> Tensor:
        assert isinstance(p_x, PaintedPixels)
        bare, painted = p_x.log_pi.exp().split([1, self.K], -3)
        shade = 1 + (painted.cumsum(-3) < (1 - bare) / 2).sum(-3).clamp(max=self.K - 1)
        return p_x.chosen(shade.where(bare.squeeze(-3) < 0.5, 0), p_x.loc)
