"""Interpolation between codes (..., D)."""

import torch
from torch import Tensor


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Interpolate along a straight line. Returns (T, ..., D) for t (T,) in [0, 1]."""
    return torch.lerp(a, b, t.view(-1, *[1] * a.dim()))


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Interpolate along an arc around the origin, with linearly interpolated norm: (T, ..., D) for t (T,).

    High-dimensional codes lie close to a sphere, and the middle of a straight line lies far inside it (White 2016).
    Parallel, opposite or zero vectors, which define no arc, are interpolated linearly.
    """
    lengths = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    from_a, to_b = (code / length.clamp(min=1e-12) for code, length in zip((a, b), lengths, strict=True))
    angle = (from_a * to_b).sum(-1, keepdim=True).clamp(-1, 1).acos()
    has_arc = (angle.sin() > 1e-3) & (torch.minimum(*lengths) > 0)
    t = t.view(-1, *[1] * a.dim())
    arc = (((1 - t) * angle).sin() * from_a + (t * angle).sin() * to_b) / angle.sin()
    return torch.where(has_arc, torch.lerp(*lengths, t) * arc, torch.lerp(a, b, t))


INTERPOLATIONS = {"linear": linear, "spherical": spherical}


def smoothstep(steps: int) -> Tensor:
    """Return `steps` values from 0 to just below 1 that change slowly at both ends: 3 t^2 - 2 t^3."""
    t = torch.arange(steps) / steps
    return t * t * (3 - 2 * t)


def loop(codes: Tensor, steps: int) -> Tensor:
    """Interpolate spherically from each of the codes (S, ..., D) to the next and back to the first.

    Returns (S * steps, ..., D).
    """
    t = smoothstep(steps).to(codes)
    return torch.cat([spherical(a, b, t) for a, b in zip(codes, codes.roll(-1, 0), strict=True)])
