"""Pixels: their types and ranges, how they are made binary, and the random numbers for it."""

from collections.abc import Callable
from enum import IntEnum
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vae.errors import UserError


def bernoulli_binarize(pixels: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.bool) -> Tensor:
    """Set each pixel to 1 with probability pixel/255, else to 0 (Salakhutdinov & Murray 2008). Keeps the shape.

    Each pixel is compared with 16 random bits. A pixel of 0 never becomes 1, a pixel of 255 always does; the
    probability of any other value is exact to 2^-16.
    """
    words = torch.empty(-(-pixels.numel() // 4), dtype=torch.int64, device=pixels.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: pixels.numel()].view_as(pixels)
    levels = pixels.short().mul_(257).sub_(2**15)  # maps 0..255 to -2^15..2^15-1
    return torch.lt(bits.clamp_(max=2**15 - 2), levels, out=torch.empty_like(pixels, dtype=dtype))


def threshold(pixels: Tensor, _generator: torch.Generator) -> Tensor:
    """Return a bool tensor: True for pixels above 127."""
    return pixels > 127


def identity(pixels: Tensor, _generator: torch.Generator) -> Tensor:
    """Return the pixels unchanged."""
    return pixels


def to_float(pixels: Tensor) -> Tensor:
    """Convert pixels to float in [0, 1]: uint8 is divided by 255, bool becomes 0 or 1, float is unchanged."""
    return pixels.float().div_(255) if pixels.dtype is torch.uint8 else pixels.float()


def check_pixels(pixels: Tensor) -> Tensor:
    """Return pixels as uint8, bool, or float in [0, 1]; whole numbers from 0 to 255 become uint8.

    Raises UserError if they do not have four dimensions, (N, C, H, W), or for other values.
    """
    if pixels.ndim != 4:
        raise UserError(f"dataset: its images have the shape {tuple(pixels.shape)}; expected (N, C, H, W)")
    if pixels.dtype in (torch.uint8, torch.bool):
        return pixels
    low, high = (pixels.min().item(), pixels.max().item()) if pixels.numel() else (0, 0)
    if pixels.is_floating_point() and low >= 0 and high <= 1:
        return pixels.float()
    if not (pixels.is_floating_point() or pixels.is_complex()) and low >= 0 and high <= 255:
        return pixels.to(torch.uint8)
    given = f"{str(pixels.dtype).removeprefix('torch.')} from {low:g} to {high:g}"
    raise UserError(f"dataset: its pixels are {given}; expected uint8, bool, or float from 0 to 1")


def to_levels(pixels: Tensor) -> Tensor:
    """Return pixels as the 256 levels of uint8: float pixels in [0, 1] are rounded, False is 0 and True is 255."""
    return pixels if pixels.dtype is torch.uint8 else pixels.float().mul(255).round().byte()


Binarize = Callable[[Tensor, torch.Generator], Tensor]  # maps pixels (N, C, H, W) to the same shape

# For each value of dataset.binarize, the transforms of: every training batch; the training images, once at setup; the
# validation and test images, once at setup.
BINARIZE: dict[str, tuple[Binarize, Binarize, Binarize]] = {
    "dynamic": (partial(bernoulli_binarize, dtype=torch.float), identity, bernoulli_binarize),
    "static": (identity, bernoulli_binarize, bernoulli_binarize),
    "threshold": (identity, threshold, threshold),
    "none": (identity, identity, identity),
}
BINARIZE["larochelle"] = BINARIZE["static"]  # the pixels of his files are 0 or 255


class RNGPurpose(IntEnum):
    """Purposes of random numbers. Each purpose has an independent random stream."""

    SPLIT = 1
    FIXED_BINARIZATION = 2
    EPOCH = 3
    RANK = 4
    LABELLED = 5


def generator(device: torch.device, purpose: RNGPurpose, *seed: int) -> torch.Generator:
    """Return a generator seeded by the purpose and these seeds only."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence([purpose, *seed]).generate_state(1)[0]))
