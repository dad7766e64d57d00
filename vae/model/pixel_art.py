"""The likelihood of pixel art: most pixels repeat the colour of a neighbour, and an image has few colours."""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.model.autoregressive import (
    LEVELS,
    MAX_LOG_SCALE,
    AutoregressiveLikelihood,
    level_index,
    round_to_level,
)
from vae.model.causal_network import Offsets
from vae.model.likelihoods import soft_lower_bound
from vae.model.pixel_distributions import eight_bits, log_mass


class DecoderWithLatent(nn.Module):
    """z (..., D) -> the decoder's output with D more channels, each constant, (..., h_channels + D, H, W)."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> Tensor:
        h = self.decoder(z)
        return torch.cat([h, z[..., None, None].expand(*z.shape, *h.shape[-2:])], -3)


class PixelArt(AutoregressiveLikelihood):
    """Likelihood for 8-bit colour images in which most pixels repeat a neighbour, and the others use a palette.

    Each pixel is a mixture of point masses and of `palette` colours. The point masses are on the background and on the
    colours of the neighbours; those on the same colour add up. The palette is a function of z, the same for all pixels;
    each of its colours is a logistic in every channel, rounded to 256 levels. Pixels outside the image have the
    colour of the background. In display images, a colour of the palette has no noise. The last `latent_dim` channels
    of h are z.
    """

    earlier: Tensor
    bases: Tensor
    support = eight_bits
    neighbours: ClassVar[Offsets] = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))

    def __init__(self, latent_dim: int, palette: int, background: float, **options: Any) -> None:
        super().__init__(**options)
        self.latent_dim = latent_dim
        self.K, self.background = palette, round(background * (LEVELS - 1)) / (LEVELS - 1)
        self.n_copies = 1 + len(self.neighbours)
        n = self.n_copies + self.K
        self.register_buffer("earlier", torch.ones(n, n, dtype=torch.bool).tril(-1), persistent=False)

    def outputs_per_pixel(self, channels: int) -> int:  # noqa: ARG002 - the same for all images
        return self.n_copies + self.K

    def build(self, channels: int) -> None:
        super().build(channels)
        self.register_buffer("bases", float(LEVELS) ** torch.arange(channels), persistent=False)
        last = nn.Linear(128, 2 * self.K * channels)
        nn.init.normal_(last.bias[: self.K * channels], std=1.5)  # different colours from the start
        self.palette = nn.Sequential(nn.Linear(self.latent_dim, 128), nn.SiLU(), last)

    def wrap_decoder(self, decoder: nn.Module) -> nn.Module:
        return DecoderWithLatent(decoder)

    def image_parameters(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the colours of the palette and their log-scales, (..., K, C)."""
        z = h[..., self.decoder_channels :, 0, 0]
        loc, log_s = self.palette(z).unflatten(-1, (2, self.K, self.channels)).unbind(-3)
        return loc.sigmoid(), soft_lower_bound(log_s - 3, -8).clamp(max=MAX_LOG_SCALE)

    def colour_index(self, x: Tensor, dim: int) -> Tensor:
        """Return one whole number per colour, with the channels in dimension `dim`. It is exact in float32."""
        return (level_index(x).movedim(dim, -1) * self.bases.to(x)).sum(-1)

    def matches(self, x: Tensor) -> Tensor:
        """Return whether each pixel is the background, and whether it equals each neighbour, (B, 1 + neighbours, H, W).

        x are images, (B, C, H, W).
        """
        height, width = x.shape[-2:]
        pad = max(max(abs(i), abs(j)) for i, j in self.neighbours)
        index = self.colour_index(F.pad(x, [pad] * 4, value=self.background), -3)
        pixel, background = index[..., pad:-pad, pad:-pad], index[..., :1, :1]
        shifted = [index[..., pad + i : pad + i + height, pad + j : pad + j + width] for i, j in self.neighbours]
        return torch.stack([pixel == background, *(pixel == neighbour for neighbour in shifted)], -3)

    def log_mass(self, x: Tensor, out: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
        loc, log_s = parameters
        levels = torch.arange(LEVELS, device=x.device).to(x) / (LEVELS - 1)
        table = log_mass(levels, loc.unsqueeze(-1), log_s.unsqueeze(-1))  # (..., B, K, C, LEVELS)
        index = level_index(x).long().flatten(-2).unsqueeze(-3)  # (B, 1, C, H W)
        log_colours = table.gather(-1, index.expand(*table.shape[:-1], -1)).sum(-2).unflatten(-1, x.shape[-2:])
        copies, palette = out.split([self.n_copies, self.K], -3)
        copies = copies.masked_fill(~self.matches(x), -math.inf)
        return (torch.cat([copies, palette + log_colours], -3).logsumexp(-3) - out.logsumexp(-3)).sum((-2, -1))

    def noise_per_pixel(self) -> tuple[int, int]:
        return self.n_copies + self.K, self.channels

    def noise(self, N: int, h: Tensor, seed: int | None = None) -> Tensor:
        noise = super().noise(N, h, seed)
        if seed is not None:
            noise[..., -self.channels :] = 0  # of the colours of the palette
        return noise

    def sample_pixel(self, out: Tensor, noise: Tensor, context: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
        loc, log_s = parameters
        gumbel, logistic = noise.split([self.n_copies + self.K, self.channels], -1)
        palette = loc + logistic.unsqueeze(-2) * log_s.exp()
        context = context.unflatten(-1, (len(self.neighbours), -1))[..., : self.channels] / 2 + self.background
        background = torch.full_like(context[..., :1, :], self.background)
        colours = torch.cat([background, context, round_to_level(palette)], -2)  # (rows, N, n, C)
        index = self.colour_index(colours, -1)
        same = index.unsqueeze(-1) == index.unsqueeze(-2)
        log_p = (same.to(out) @ out.softmax(-1).unsqueeze(-1)).squeeze(-1).log()  # equal colours summed
        duplicate = (same & self.earlier).any(-1)
        k = (log_p + gumbel).masked_fill(duplicate, -math.inf).argmax(-1)
        return round_to_level(colours.gather(-2, k[..., None, None].expand(*k.shape, 1, self.channels)).squeeze(-2))
