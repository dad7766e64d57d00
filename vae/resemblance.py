"""How alike two pictures in colour on a plain ground are: in outline, and in colours.

Images are (..., C, H, W) in [0, 1].
"""

import torch
from torch import Tensor

GROUND = 0.1  # what differs from the ground by less in every channel belongs to it
BINS = 4  # of each channel's histogram


def silhouette(x: Tensor) -> Tensor:
    """The pixels that differ from the ground, the colour of the upper left corner, (..., H, W)."""
    return ((x - x[..., :1, :1]).abs() > GROUND).any(-3)


def silhouette_iou(a: Tensor, b: Tensor) -> Tensor:
    """The pixels of both silhouettes, as a part of those of either, (...,): 1 where they are the same."""
    of_a, of_b = silhouette(a), silhouette(b)
    both, either = (of_a & of_b).sum((-2, -1)), (of_a | of_b).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def colours(x: Tensor) -> Tensor:
    """The parts of a silhouette's pixels in each of BINS^C bins of colour, (..., BINS^C); all 0 where it has none."""
    of_colour = (x * BINS).long().clamp(0, BINS - 1).movedim(-3, -1)
    bases = BINS ** torch.arange(x.shape[-3], device=x.device)
    bins = (of_colour * bases).sum(-1).flatten(-2)
    inside = silhouette(x).flatten(-2).to(x.dtype)
    counts = torch.zeros(*bins.shape[:-1], BINS ** x.shape[-3], device=x.device, dtype=x.dtype)
    return counts.scatter_add(-1, bins, inside) / inside.sum(-1, keepdim=True).clamp(min=1)


def colour_distance(a: Tensor, b: Tensor) -> Tensor:
    """The part of the colours of two silhouettes that they do not share, (...,): 0 where all are alike, 1 where none.

    It is the total variation between two histograms; of two images without a silhouette, 0.
    """
    of_a, of_b = colours(a), colours(b)
    return torch.where((of_a == of_b).all(-1), 0.0, 1 - torch.minimum(of_a, of_b).sum(-1))
