"""Ways from code to code. Codes are (..., D)."""

import torch
from torch import Tensor


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """On the straight line, at parts t of it: (T, ..., D) for t (T,)."""
    return torch.lerp(a, b, t.view(-1, *[1] * a.dim()))


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """On the arc about the origin, the length changing evenly: (T, ..., D) for t (T,). Straight where there is no arc.

    Codes of many dimensions lie near a sphere, and the middle of a straight line far inside it (White 2016).
    """
    lengths = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    from_a, to_b = (code / length.clamp(min=1e-12) for code, length in zip((a, b), lengths, strict=True))
    angle = (from_a * to_b).sum(-1, keepdim=True).clamp(-1, 1).acos()
    curved = (angle.sin() > 1e-3) & (torch.minimum(*lengths) > 0)
    t = t.view(-1, *[1] * a.dim())
    arc = (((1 - t) * angle).sin() * from_a + (t * angle).sin() * to_b) / angle.sin()
    return torch.where(curved, torch.lerp(*lengths, t) * arc, torch.lerp(a, b, t))


WAYS = {"linear": linear, "spherical": spherical}


def eased(steps: int) -> Tensor:
    """Parts of a way, (steps,), from 0 to just before 1, slow at both ends."""
    t = torch.arange(steps) / steps
    return t * t * (3 - 2 * t)


def loop(codes: Tensor, steps: int) -> Tensor:
    """Spherically from each of codes (S, ..., D) to the next and from the last to the first: (S * steps, ..., D)."""
    t = eased(steps).to(codes)
    return torch.cat([spherical(a, b, t) for a, b in zip(codes, codes.roll(-1, 0), strict=True)])
