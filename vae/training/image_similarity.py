"""Similarity of two colour images on a plain background: of their silhouettes, and of their colours.

Images are (..., C, H, W) in [0, 1].
"""

import torch
from torch import Tensor

BACKGROUND_TOLERANCE = 0.1  # a pixel that differs from the background by at most this in every channel belongs to it
BINS = 4  # of the histogram, per channel


def silhouette(x: Tensor) -> Tensor:
    """Return which pixels differ from the background, the colour of the upper left corner, (..., H, W)."""
    return ((x - x[..., :1, :1]).abs() > BACKGROUND_TOLERANCE).any(-3)


def silhouette_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of the silhouettes, (...,). It is 1 if both are empty."""
    in_a, in_b = silhouette(a), silhouette(b)
    intersection, union = (in_a & in_b).sum((-2, -1)), (in_a | in_b).sum((-2, -1))
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def colour_histogram(x: Tensor) -> Tensor:
    """Return the fraction of the silhouette's pixels in each of BINS^C bins, (..., BINS^C): all 0 if it is empty."""
    levels = (x * BINS).long().clamp(0, BINS - 1).movedim(-3, -1)
    bases = BINS ** torch.arange(x.shape[-3], device=x.device)
    bins = (levels * bases).sum(-1).flatten(-2)
    inside = silhouette(x).flatten(-2).to(x.dtype)
    counts = torch.zeros(*bins.shape[:-1], BINS ** x.shape[-3], device=x.device, dtype=x.dtype)
    return counts.scatter_add(-1, bins, inside) / inside.sum(-1, keepdim=True).clamp(min=1)


def colour_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the total variation distance between the colours of the silhouettes, (...,), from 0 to 1.

    It is 0 if both silhouettes are empty, and 1 if one is.
    """
    in_a, in_b = colour_histogram(a), colour_histogram(b)
    return torch.where((in_a == in_b).all(-1), 0.0, 1 - torch.minimum(in_a, in_b).sum(-1))
