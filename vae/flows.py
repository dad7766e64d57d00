"""Invertible maps of codes, (..., D), with the log-determinants of their Jacobians: what flows are made of."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Transform, constraints


class MaskedLinear(nn.Linear):
    """A linear layer without the connections where `mask`, (n_out, n_in), is 0."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """(m, s), each (..., D), whose i-th depend on the z_j before z_i alone, and on a context (Germain et al. 2015).

    `backwards` lets the last z be the first of that order. One hidden layer.
    """

    def __init__(self, latent_dim: int, hidden_size: int, context: int, backwards: bool) -> None:
        super().__init__()
        order = torch.arange(1, latent_dim + 1)
        order = order.flip(0) if backwards else order
        hidden = torch.arange(hidden_size) % max(1, latent_dim - 1) + 1
        self.first = MaskedLinear(hidden[:, None] >= order)
        self.context = nn.Linear(context, hidden_size, bias=False)
        self.last = MaskedLinear(order.repeat(2)[:, None] > hidden)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        h = F.elu(self.first(z) + self.context(context))
        m, s = self.last(h).chunk(2, -1)
        return m, s


class GatedAutoregressive(Transform):
    """z -> sigmoid(s) z + (1 - sigmoid(s)) m, with (m, s) of a MADE (Kingma et al. 2016).

    At first the gates are mostly open. The map of a z it has just made is not computed again, back or forth.
    """

    bijective = True
    domain = codomain = constraints.real_vector
    OPEN = 1.5

    def __init__(self, made: nn.Module, context: Tensor) -> None:
        super().__init__(cache_size=1)
        self.made, self.context = made, context
        self.scored: tuple[Any, Any] = (None, None)  # the last x that was moved, and its log-determinant

    def _call(self, x: Tensor) -> Tensor:
        m, s = self.made(x, self.context)
        gate = (s + self.OPEN).sigmoid()
        self.scored = x, F.logsigmoid(s + self.OPEN).sum(-1)
        return gate * x + (1 - gate) * m

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):  # each pass makes the next of them right
            m, s = self.made(x, self.context)
            gate = (s + self.OPEN).sigmoid()
            x = (y - (1 - gate) * m) / gate
        return x

    def log_abs_det_jacobian(self, x: Tensor, _y: Tensor) -> Tensor:
        if self.scored[0] is not x:
            self._call(x)
        return self.scored[1]


class Coupling(nn.Module):
    """Half of z shifted and scaled by what a network says of the other half (RealNVP, Dinh et al. 2017).

    `backwards` moves the first half. At first it changes nothing. A scale is e^-2 to e^2.
    """

    def __init__(self, latent_dim: int, hidden_size: int, backwards: bool) -> None:
        super().__init__()
        self.kept, self.moved = latent_dim // 2, latent_dim - latent_dim // 2
        self.backwards = backwards
        last = nn.Linear(hidden_size, 2 * self.moved)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        hidden = [nn.Linear(self.kept, hidden_size), nn.ReLU(), nn.Linear(hidden_size, hidden_size), nn.ReLU()]
        self.net = nn.Sequential(*hidden, last)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The half that is kept, and the half that moves."""
        z = z.flip(-1) if self.backwards else z
        kept, moved = z.split([self.kept, self.moved], -1)
        return kept, moved

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        z = torch.cat([kept, moved], -1)
        return z.flip(-1) if self.backwards else z

    def forward(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and log-scale of the other half."""
        shift, raw = self.net(kept).chunk(2, -1)
        return shift, 2 * torch.tanh(raw / 2)


class Affine(Transform):
    """A `Coupling` as a map and its inverse, each one pass."""

    bijective = True
    domain = codomain = constraints.real_vector

    def __init__(self, coupling: nn.Module) -> None:
        super().__init__(cache_size=1)
        self.coupling: Any = coupling
        self.scored: tuple[Any, Any] = (None, None)  # the last x that was moved to, and its log-determinant

    def _call(self, x: Tensor) -> Tensor:
        kept, moved = self.coupling.split(x)
        shift, log_scale = self.coupling(kept)
        return self.coupling.join(kept, moved * log_scale.exp() + shift)

    def _inverse(self, y: Tensor) -> Tensor:
        kept, moved = self.coupling.split(y)
        shift, log_scale = self.coupling(kept)
        x = self.coupling.join(kept, (moved - shift) * (-log_scale).exp())
        self.scored = x, log_scale.sum(-1)
        return x

    def log_abs_det_jacobian(self, x: Tensor, _y: Tensor) -> Tensor:
        if self.scored[0] is not x:
            self.scored = x, self.coupling(self.coupling.split(x)[0])[1].sum(-1)
        return self.scored[1]
