"""Likelihoods p(x|z), parameterised by the decoder's output h.

A likelihood defines `h_channels`, the number of channels of h, and `support`, the pixel values it is a distribution
over. Called with h, (..., h_channels, H, W), it returns a distribution over images (C, H, W) with `log_prob` in nats.
Pixels are independent given z, except in `vae.model.autoregressive`. Images are in [0, 1]; 8-bit images have the values
i/255.
"""

import math

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints

from vae.model.pixel_distributions import (
    BinaryImages,
    CategoricalLevels,
    Levels,
    LogisticLevels,
    OneHotCategorical,
    OneHotChannels,
    SpriteDistribution,
    eight_bits,
)

MIN_LOG_SIGMA = -6.0  # soft lower bound for Gaussians: as sigma goes to 0, their density grows without limit
MIN_LOG_SCALE = -7.0  # soft lower bound for logistics


def soft_lower_bound(x: Tensor, bound: float) -> Tensor:
    """Return bound + softplus(x - bound), which is above the bound, and close to x if x is well above it."""
    return bound + F.softplus(x - bound)


class Likelihood(nn.Module):
    """Base class. If `normalized` is False, no metric is named elbo, log_likelihood or log_px."""

    support: constraints.Constraint
    normalized = True
    sampled_mean = False  # whether the mean of p(x|z) is estimated from samples, which takes time

    def build(self, channels: int) -> None:
        """Create the parts that depend on the number of channels of an image: by default, none."""

    def wrap_decoder(self, decoder: nn.Module) -> nn.Module:
        """Return the decoder of a model with this likelihood: by default, the given one."""
        return decoder

    def h_channels(self, channels: int) -> int:
        """Return the number of channels of h for images with `channels` channels."""
        return channels

    def dimensions(self, values: int) -> int:
        """Return the number of dimensions of an image with this many values: by default, all of them."""
        return values

    def display_image(self, p_x: D.Distribution) -> Tensor:
        """Return the image to display for p(x|z): by default, its mean."""
        return p_x.mean

    def candidate_images(self, p_x: D.Distribution, n: int) -> Tensor:  # noqa: ARG002
        """Return n images to choose the one to display from, (n, ..., C, H, W): by default, `display_image` only."""
        return self.display_image(p_x).unsqueeze(0)

    def draft_image(self, p_x: D.Distribution, previous: Tensor) -> Tensor:  # noqa: ARG002
        """Return an approximation of `display_image` that takes less time, given an earlier one; by default, itself."""
        return self.display_image(p_x)


def independent_pixels(pixels: D.Distribution) -> D.Distribution:
    """Turn the dimensions (C, H, W) of a distribution over single values into event dimensions."""
    return D.Independent(pixels, 3, validate_args=False)


class Bernoulli(Likelihood):
    """Bernoulli likelihood for x in {0, 1}; h holds the logits (Kingma & Welling 2013, app. C.1)."""

    support: constraints.Constraint = constraints.boolean

    def forward(self, h: Tensor) -> D.Distribution:
        return BinaryImages(h)


class GreyCrossEntropy(Likelihood):
    """Binary cross-entropy applied to grey levels, as in many tutorials; h holds the logits.

    It does not integrate to 1 over [0, 1], so it is not a likelihood. Use it to compare with published results.
    """

    support = constraints.unit_interval
    normalized = False

    def forward(self, h: Tensor) -> D.Distribution:
        return independent_pixels(D.Bernoulli(logits=h, validate_args=False))


class ContinuousBernoulli(Likelihood):
    """Continuous Bernoulli likelihood for x in [0, 1]; h holds the logits (Loaiza-Ganem & Cunningham 2019).

    For probabilities within `LIMITS`, torch computes the mean and the normalising constant by a Taylor series. Just
    outside torch's narrower default limits, its mean is wrong by 0.003.
    """

    LIMITS = (0.45, 0.55)
    support = constraints.unit_interval

    def forward(self, h: Tensor) -> D.Distribution:
        return independent_pixels(D.ContinuousBernoulli(logits=h, lims=self.LIMITS, validate_args=False))


class Gaussian(Likelihood):
    """N(x; sigmoid(h), sigma^2) with one sigma for all pixels, which is trained if `learned` (Rybkin et al. 2021).

    Pixel values are in [0, 1], so the density can exceed 1, and its logarithm can be positive.
    """

    support = constraints.real

    def __init__(self, sigma: float, learned: bool) -> None:
        super().__init__()
        above = math.log(sigma) - MIN_LOG_SIGMA
        raw = MIN_LOG_SIGMA + math.log(math.expm1(above))  # the inverse of soft_lower_bound
        self.raw = nn.Parameter(torch.tensor(raw), requires_grad=learned)

    @property
    def sigma(self) -> Tensor:
        return soft_lower_bound(self.raw, MIN_LOG_SIGMA).exp()

    def forward(self, h: Tensor) -> D.Distribution:
        return independent_pixels(D.Normal(h.sigmoid(), self.sigma, validate_args=False))


class PixelGaussian(Likelihood):
    """Like `Gaussian`, with one variance per value from the decoder (Kingma & Welling 2013, app. C.2)."""

    support = constraints.real

    def h_channels(self, channels: int) -> int:
        return 2 * channels

    def forward(self, h: Tensor) -> D.Distribution:
        mean, log_sigma = h.chunk(2, -3)
        sigma = soft_lower_bound(log_sigma, MIN_LOG_SIGMA).exp()
        return independent_pixels(D.Normal(mean.sigmoid(), sigma, validate_args=False))


class DiscretizedLogistic(Likelihood):
    """Logistic rounded to the 256 levels of 8-bit images (Kingma et al. 2016).

    h holds the mean before a sigmoid. With scale="pixel", h also holds one log-scale per value, which is added to a
    learned log-scale shared by all. With scale="shared", there is only the shared one.
    """

    support = eight_bits

    def __init__(self, scale: str) -> None:
        super().__init__()
        self.per_pixel = scale == "pixel"
        self.log_s = nn.Parameter(torch.tensor(-2.0))

    def h_channels(self, channels: int) -> int:
        return 2 * channels if self.per_pixel else channels

    def forward(self, h: Tensor) -> D.Distribution:
        mean, log_s = h.chunk(2, -3) if self.per_pixel else (h, torch.zeros(()))
        log_s = soft_lower_bound(self.log_s + log_s, MIN_LOG_SCALE)
        return independent_pixels(LogisticLevels(mean.sigmoid(), log_s))


class Categorical(Likelihood):
    """Categorical likelihood over `levels` equally spaced grey levels; h holds the logits.

    h has `levels` channels for each channel of an image: use it for small images, or few levels.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.support: Levels = Levels(levels)

    def h_channels(self, channels: int) -> int:
        return self.support.n * channels

    def forward(self, h: Tensor) -> D.Distribution:
        n = self.support.n
        return independent_pixels(CategoricalLevels(h.unflatten(-3, (n, h.shape[-3] // n)), self.support))


class OneHot(Likelihood):
    """Categorical likelihood over the channels of one-hot images, such as the letters A, C, G, T; h holds the logits.

    A position is one dimension, however many channels it has.
    """

    support = OneHotChannels()

    def build(self, channels: int) -> None:
        self.channels = channels

    def dimensions(self, values: int) -> int:
        return values // self.channels

    def forward(self, h: Tensor) -> D.Distribution:
        return OneHotCategorical(h)


class Shades(Likelihood):
    """Likelihood for 8-bit sprites: each pixel is the background, or one of K shades of a colour.

    For each pixel, h holds the logits of the background and of the K shades, and one colour. Each shade is this colour
    plus an offset, before a sigmoid, and has a logistic distribution. Offsets and scales are learned and shared by all
    pixels. Scales are at most `max_scale`: a wide logistic around grey would fit every colour, and z would not encode
    colour. The display image is the background if its probability exceeds 1/2, else the median shade, so that it
    contains no mixed colours.
    """

    support = eight_bits

    def __init__(self, K: int, max_scale: float, background: float) -> None:
        super().__init__()
        self.K, self.max_scale, self.background = K, max_scale, background
        self.offset = nn.Parameter(torch.linspace(-3, 3, K))
        self.raw_s = nn.Parameter(torch.zeros(K))

    @property
    def log_s(self) -> Tensor:
        """Log-scales of the shades, (K,), at most log(max_scale)."""
        return soft_lower_bound(math.log(self.max_scale) - F.softplus(self.raw_s), MIN_LOG_SCALE)

    def h_channels(self, channels: int) -> int:
        return 1 + self.K + channels

    def forward(self, h: Tensor) -> D.Distribution:
        logits, colour = h.split([1 + self.K, h.shape[-3] - 1 - self.K], -3)
        loc = (colour.unsqueeze(-4) + self.offset[:, None, None, None]).sigmoid()
        return SpriteDistribution(logits.log_softmax(-3), loc, self.log_s, self.background)

    def display_image(self, p_x: D.Distribution) -> Tensor:
        assert isinstance(p_x, SpriteDistribution)
        pi_background, pi_shades = p_x.log_pi.exp().split([1, self.K], -3)
        median_shade = 1 + (pi_shades.cumsum(-3) < (1 - pi_background) / 2).sum(-3).clamp(max=self.K - 1)
        return p_x.select(median_shade.where(pi_background.squeeze(-3) < 0.5, 0), p_x.loc)
