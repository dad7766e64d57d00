"""Augmentation of a batch of training images."""

import torch
import torch.nn.functional as F
from torch import Tensor


def flip(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror each image, (N, C, H, W), with probability 1/2."""
    mirrored = torch.rand(len(pixels), 1, 1, 1, generator=rng, device=pixels.device) < 0.5
    return torch.where(mirrored, pixels.flip(-1), pixels)


def permute_colours(pixels: Tensor, fraction: float, rng: torch.Generator) -> Tensor:
    """Put the colour channels of a fraction of the images, (N, 3, H, W), in random order: red may become blue."""
    n, device = len(pixels), pixels.device
    order = torch.rand(n, 3, generator=rng, device=device).argsort(1)
    changed = torch.rand(n, 1, 1, 1, generator=rng, device=device) < fraction
    return torch.where(changed, pixels[torch.arange(n, device=device)[:, None], order], pixels)


def shift(pixels: Tensor, largest: int, rng: torch.Generator) -> Tensor:
    """Move each image on white, (N, C, H, W), by up to `largest` pixels in both directions."""
    n, device = len(pixels), pixels.device
    offsets = torch.randint(2 * largest + 1, (2, n, 1), generator=rng, device=device)
    rows, columns = (
        offset + torch.arange(size, device=device) for offset, size in zip(offsets, pixels.shape[2:], strict=True)
    )
    padded = F.pad(pixels, [largest] * 4, value=255)
    index = torch.arange(n, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]
    return padded.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)
