"""p(x|z): what the decoder's output h says of the pixels.

A likelihood says how many maps (H, W) of h it needs for images of C channels, and of which pixels it is a
distribution, its `support`. Called with h, (..., maps, H, W), it returns a distribution over images (C, H, W) whose
`log_prob` is in nats. All pixels are independent given z. Images are in [0, 1]; those of 8 bits are i/255.
"""

import math

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints

from vae.pixels import BinaryImages, CategoricalLevels, Levels, LogisticLevels, PaintedPixels, eight_bits

LOG_SIGMA = -6.0  # the least log of a Gaussian's standard deviation, softly, or its density has no bound


def at_least(x: Tensor, bound: float) -> Tensor:
    """x where it is well above the bound, and softly no less than the bound."""
    return bound + F.softplus(x - bound)


class Likelihood(nn.Module):
    """What all share. Of a likelihood that is not `normalized`, no record is called elbo, log_likelihood or log_px."""

    support: constraints.Constraint
    normalized = True

    def build(self, channels: int) -> None:
        """Make what depends on the number of channels of an image. Here, nothing does."""

    def decoder(self, decoder: nn.Module) -> nn.Module:
        """The decoder of a model with this likelihood. Here, the one given."""
        return decoder

    def maps(self, channels: int) -> int:
        """How many maps h has for images of so many channels."""
        return channels

    def picture(self, p_x: D.Distribution) -> Tensor:
        """The image to show for p(x|z): its mean, unless another is truer to what such images look like."""
        return p_x.mean


def independent(pixels: D.Distribution) -> D.Distribution:
    """One distribution over images (C, H, W) from one over each of their values."""
    return D.Independent(pixels, 3, validate_args=False)


class Bernoulli(Likelihood):
    """x in {0, 1}; h is the logit (Kingma & Welling 2013, app. C.1)."""

    support: constraints.Constraint = constraints.boolean

    def forward(self, h: Tensor) -> D.Distribution:
        return BinaryImages(h)


class GreyCrossEntropy(Likelihood):
    """The cross-entropy of grey levels with p, which many tutorials call a likelihood: it is none, of no distribution.

    Offered to compare with their figures, under its own name.
    """

    support = constraints.unit_interval
    normalized = False

    def forward(self, h: Tensor) -> D.Distribution:
        return independent(D.Bernoulli(logits=h, validate_args=False))


class ContinuousBernoulli(Likelihood):
    """A density over x in [0, 1]; h is the logit (Loaiza-Ganem & Cunningham 2019).

    Between the `SERIES` its mean and its constant are sums of a series; torch's own narrower bounds leave a mean that
    is off by 0.003 beside them.
    """

    SERIES = (0.45, 0.55)
    support = constraints.unit_interval

    def forward(self, h: Tensor) -> D.Distribution:
        return independent(D.ContinuousBernoulli(logits=h, lims=self.SERIES, validate_args=False))


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
