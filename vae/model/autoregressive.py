"""Likelihoods p(x|z) = prod_i p(x_i | x_<i, h(z)): each pixel depends on those before it (PixelVAE, Gulrajani 2017).

The decoder's output h describes the image; a small causal network also sees the previous pixels. Shapes: N images,
(C, H, W) one image, h (..., h_channels, H, W). Images are in [0, 1]; 8-bit images have the values i/255.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from vae.errors import UserError
from vae.model.causal_network import CausalNetwork, Offsets, with_inside
from vae.model.likelihoods import Likelihood, soft_lower_bound
from vae.model.pixel_distributions import eight_bits, log_mass

MEAN_SAMPLES = 16  # for the mean of p(x|z), which has no closed form
LEVELS = 256  # of 8-bit images
MAX_LOG_SCALE = 10.0  # a wider logistic has its mass on the two end levels; without a limit, gradients become NaN
CHUNK_SIZE = 128  # images that are sampled together


class AutoregressiveDistribution(D.Distribution):
    """Distribution over images (C, H, W) that an autoregressive likelihood defines for h, (..., h_channels, H, W)."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, likelihood: "AutoregressiveLikelihood", h: Tensor) -> None:
        self.likelihood, self.h = likelihood, h
        super().__init__(h.shape[:-3], torch.Size([likelihood.channels, *h.shape[-2:]]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x|z), in one pass. For K samples, h (K, B, ...) and x (B, ...), x is convolved only once."""
        h, batch = self.h, torch.broadcast_shapes(value.shape[:-3], self.h.shape[:-3])
        if value.dim() != 4 or h.dim() < 4 or h.shape[-4] != len(value):
            value = value.expand(*batch, *self.event_shape).reshape(-1, *self.event_shape)
            h = h.expand(*batch, *h.shape[-3:]).reshape(-1, *h.shape[-3:])
        out = self.likelihood.network_outputs(value, h)
        return self.likelihood.log_mass(value, out, self.likelihood.image_parameters(h)).reshape(batch)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._sample(torch.Size(sample_shape), lambda i: self.likelihood.noise(len(i), self.h))

    def seeded_samples(self, temperature: float, seeds: Iterable[int]) -> Tensor:
        """Return an image per seed and h, (seeds, ..., C, H, W), that depends on the seed and h only.

        At temperature 0, pixels are the most likely.
        """
        noise = temperature * torch.cat([self.likelihood.noise(1, self.h, seed) for seed in seeds], 1)
        return self._sample(torch.Size([noise.shape[1]]), lambda i: noise[:, i // self.batch_shape.numel()])

    @torch.no_grad()
    def draft(self, x: Tensor, temperature: float, seed: int = 0) -> Tensor:
        """Sample all pixels at once, each given the previous pixels of images x, (..., C, H, W), not those of its own.

        The noise is that of `seeded_samples`. Repeated, this ends at its image, which is the fixed point.
        """
        likelihood, h = self.likelihood, self.h.reshape(-1, *self.h.shape[-3:])
        x = x.expand(*self.batch_shape, *self.event_shape).reshape(-1, *self.event_shape)
        height, width = x.shape[-2:]
        order = likelihood.network.sampling_order(height, width, likelihood.neighbours)
        noise = temperature * likelihood.noise(1, h, seed)[order.argsort()]
        out = likelihood.network_outputs(x, h).flatten(-2).permute(2, 0, 1)
        values = likelihood.sample_pixel(out, noise, likelihood.context(x), likelihood.image_parameters(h))
        return values.permute(1, 2, 0).reshape(*self.batch_shape, *self.event_shape)

    @torch.no_grad()
    def _sample(self, sample_shape: torch.Size, noise: Callable[[Tensor], Tensor]) -> Tensor:
        """Return images of this shape. `noise` returns that of some of them, given their indices."""
        likelihood, h, images = self.likelihood, self.h.reshape(-1, *self.h.shape[-3:]), []
        for i in torch.arange(sample_shape.numel() * len(h)).split(CHUNK_SIZE):
            chunk = h[i % len(h)]
            sample_pixel = partial(likelihood.sample_pixel, parameters=likelihood.image_parameters(chunk))
            images.append(
                likelihood.network.sample(
                    chunk[:, : likelihood.decoder_channels],
                    noise(i),
                    likelihood.neighbours,
                    sample_pixel,
                    likelihood.network_input,
                )
            )
        return torch.cat(images).reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    @property
    def mean(self) -> Tensor:
        """Mean of MEAN_SAMPLES images with fixed seeds. It has no gradient: raises UserError if one is required."""
        if torch.is_grad_enabled() and self.h.requires_grad:
            name = type(self.likelihood).__name__
            raise UserError(
                f"likelihood: the mean of {name} has no gradient; expected another likelihood, or objective=elbo"
            )
        return self.seeded_samples(1.0, range(MEAN_SAMPLES)).mean(0)


class AutoregressiveLikelihood(Likelihood):
    """Base class. Subclasses interpret the outputs of the causal network in `log_mass` and `sample_pixel`.

    `h_channels` is the number of channels from the decoder, `temperature` that of the display image. For the other
    arguments, see `CausalNetwork`.
    """

    sampled_mean = True
    neighbours: ClassVar[Offsets] = ()  # the pixels whose inputs `sample_pixel` gets
    background = 0.0  # pixels with this value are 0 for the network, as those outside the image are
    network: CausalNetwork
    channels: int

    def __init__(
        self,
        h_channels: int,
        radius: int,
        width: int,
        dilations: Sequence[int],
        context_swap: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.decoder_channels, self.temperature = h_channels, temperature
        self.network_options: dict[str, Any] = {
            "radius": radius,
            "width": width,
            "dilations": dilations,
            "context_swap": context_swap,
        }

    def build(self, channels: int) -> None:
        self.channels = channels
        outputs = self.outputs_per_pixel(channels)
        self.network = CausalNetwork(channels, self.decoder_channels, outputs, **self.network_options)

    def h_channels(self, channels: int) -> int:  # noqa: ARG002 - the same for all images
        return self.decoder_channels

    def forward(self, h: Tensor) -> D.Distribution:
        return AutoregressiveDistribution(self, h)

    def display_image(self, p_x: D.Distribution) -> Tensor:
        """Return a sample at `temperature`, with a fixed seed."""
        return self.candidate_images(p_x, 1)[0]

    def candidate_images(self, p_x: D.Distribution, n: int) -> Tensor:
        """Return samples at `temperature`, with n fixed seeds; the first is the display image."""
        assert isinstance(p_x, AutoregressiveDistribution)
        return p_x.seeded_samples(self.temperature, range(n))

    def draft_image(self, p_x: D.Distribution, previous: Tensor) -> Tensor:
        """Return the display image in which each pixel is given the previous ones of another image."""
        assert isinstance(p_x, AutoregressiveDistribution)
        return p_x.draft(previous, self.temperature)

    def context(self, x: Tensor) -> Tensor:
        """Return the network's inputs at the neighbours of each pixel of x, (H W, B, neighbours * (C + 1))."""
        pad = max((max(abs(i), abs(j)) for i, j in self.neighbours), default=0)
        inputs, (height, width) = F.pad(with_inside(self.network_input(x), 1), [pad] * 4), x.shape[-2:]
        shifted = [inputs[..., pad + i :, pad + j :][..., :height, :width] for i, j in self.neighbours]
        return torch.cat([*shifted, inputs[:, :0, :height, :width]], 1).flatten(-2).permute(2, 0, 1)

    def network_input(self, x: Tensor) -> Tensor:
        """Return the input of the network for values x."""
        return 2 * (x - self.background)

    def network_outputs(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the outputs for each pixel of x (B, C, H, W), (..., B, outputs, H, W)."""
        return self.network(self.network_input(x), h[..., : self.decoder_channels, :, :])

    def image_parameters(self, _h: Tensor) -> Any:
        """Return what h, (..., h_channels, H, W), says about the whole image: by default, nothing."""
        return None

    def noise(self, N: int, h: Tensor, seed: int | None = None) -> Tensor:
        """Return the Gumbel and logistic noise of all pixels of N images, (H W, N, n), for h (..., H, W).

        With a seed, it is the same on all devices.
        """
        gumbel, logistic = self.noise_per_pixel()
        shape = (h.shape[-2] * h.shape[-1], N, gumbel + logistic)
        rng = None if seed is None else torch.Generator().manual_seed(seed)
        u = torch.rand(shape, generator=rng, device="cpu" if rng else h.device).to(h).clamp(1e-7, 1 - 1e-7)
        return torch.cat([-(-u[..., :gumbel].log()).log(), u[..., gumbel:].logit()], -1)

    @abstractmethod
    def outputs_per_pixel(self, channels: int) -> int:
        """Return the number of outputs of the network for each pixel."""

    @abstractmethod
    def noise_per_pixel(self) -> tuple[int, int]:
        """Return how many Gumbel and how many logistic random numbers `sample_pixel` needs for one pixel.

        With Gumbel noise, the argmax of log p + noise has the distribution p.
        """

    @abstractmethod
    def log_mass(self, x: Tensor, out: Tensor, parameters: Any) -> Tensor:
        """Return log p(x|z), (..., B), for images x (B, C, H, W), given the outputs (..., B, outputs, H, W)."""

    @abstractmethod
    def sample_pixel(self, out: Tensor, noise: Tensor, context: Tensor, parameters: Any) -> Tensor:
        """Sample the values (rows, N, C) of one pixel in each of some rows, given their outputs (rows, N, outputs).

        `noise` is that of `noise`, multiplied by the temperature, (rows, N or 1, n). `context`,
        (rows, N, neighbours * (C + 1)), are the network's inputs at the neighbours.
        """


def level_index(x: Tensor) -> Tensor:
    """Return the index of the nearest of the LEVELS, as a float."""
    return (x * (LEVELS - 1)).round()


def round_to_level(x: Tensor) -> Tensor:
    """Return the nearest of the LEVELS."""
    return level_index(x.clamp(0, 1)) / (LEVELS - 1)


class PixelCNN(AutoregressiveLikelihood):
    """x in {0, 1}: each pixel is Bernoulli given h and the previous pixels (Gulrajani et al. 2017)."""

    support: constraints.Constraint = constraints.boolean

    def outputs_per_pixel(self, channels: int) -> int:
        return channels

    def log_mass(self, x: Tensor, out: Tensor, parameters: None) -> Tensor:  # noqa: ARG002
        return F.logsigmoid((2 * x - 1) * out).sum((-3, -2, -1))

    def noise_per_pixel(self) -> tuple[int, int]:
        return 0, self.channels

    def sample_pixel(self, out: Tensor, noise: Tensor, context: Tensor, parameters: None) -> Tensor:  # noqa: ARG002
        return (out + noise > 0).to(out)


class PixelCNNLogistic(AutoregressiveLikelihood):
    """8-bit images: each pixel is a mixture of K logistics, rounded to 256 levels (Salimans et al. 2017).

    The channels of a pixel come from the same component, and are independent given the component.
    """

    support = eight_bits

    def __init__(self, K: int, **options: Any) -> None:
        super().__init__(**options)
        self.K = K

    def outputs_per_pixel(self, channels: int) -> int:
        return self.K * (1 + 2 * channels)

    def split(self, out: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Split dimension `dim` of the outputs into log weights, (K,), and means and log-scales, (K, C)."""
        log_pi, loc, log_s = out.split([self.K, self.K * self.channels, self.K * self.channels], dim)
        loc, log_s = (part.unflatten(dim, (self.K, self.channels)) for part in (loc, log_s))
        return log_pi.log_softmax(dim), loc + 0.5, soft_lower_bound(log_s - 2, -7).clamp(max=MAX_LOG_SCALE)

    def log_mass(self, x: Tensor, out: Tensor, parameters: None) -> Tensor:  # noqa: ARG002
        log_pi, loc, log_s = self.split(out, -3)
        return (log_pi + log_mass(x.unsqueeze(-4), loc, log_s).sum(-3)).logsumexp(-3).sum((-2, -1))

    def noise_per_pixel(self) -> tuple[int, int]:
        return self.K, self.channels

    def sample_pixel(self, out: Tensor, noise: Tensor, context: Tensor, parameters: None) -> Tensor:  # noqa: ARG002
        log_pi, loc, log_s = self.split(out, -1)
        k = (log_pi + noise[..., : self.K]).argmax(-1)
        k = k[..., None, None].expand(*k.shape, 1, self.channels)
        loc, log_s = loc.gather(-2, k).squeeze(-2), log_s.gather(-2, k).squeeze(-2)
        return round_to_level(loc + noise[..., self.K :] * log_s.exp())
