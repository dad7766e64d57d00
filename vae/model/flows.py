"""Invertible maps of codes, (..., D), with the log-determinants of their Jacobians: what flows are made of."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from vae.model.networks import mlp, widths


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
        hidden = torch.arange(hidden_size) % latent_dim  # how many of z each may know
        self.first = MaskedLinear(hidden[:, None] >= order)
        self.context = nn.Linear(context, hidden_size, bias=False)
        self.last = MaskedLinear(order.repeat(2)[:, None] > hidden)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        h = F.elu(self.first(z) + self.context(context))
        m, s = self.last(h).chunk(2, -1)
        return m, s


class Step(Transform, ABC):
    """One invertible map. What it has just moved it neither moves nor scores again."""

    bijective = True
    domain = codomain = constraints.real_vector

    def __init__(self) -> None:
        super().__init__(cache_size=1)
        self.scored: tuple[Any, Any] = (None, None)  # the last x that was moved, and its log-determinant

    @abstractmethod
    def moved(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y, (..., D), and log |det dy/dx|, (...)."""

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self.moved(x)
        self.scored = x, log_det
        return y

    def log_abs_det_jacobian(self, x: Tensor, _y: Tensor) -> Tensor:
        if self.scored[0] is not x:
            self._call(x)
        return self.scored[1]


class GatedAutoregressive(Step):
    """z -> sigmoid(s) z + (1 - sigmoid(s)) m, with (m, s) of a MADE (Kingma et al. 2016); at first mostly open gates.

    The way back takes D passes.
    """

    OPEN = 1.5

    def __init__(self, made: nn.Module, context: Tensor) -> None:
        super().__init__()
        self.made, self.context = made, context

    def moved(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m, s = self.made(x, self.context)
        gate = (s + self.OPEN).sigmoid()
        return gate * x + (1 - gate) * m, F.logsigmoid(s + self.OPEN).sum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):  # each pass makes the next of them right
            m, s = self.made(x, self.context)
            gate = (s + self.OPEN).sigmoid()
            x = (y - (1 - gate) * m) / gate
        return x


class Coupling(nn.Module):
    """What a network says of half of z to shift and scale the other by (RealNVP, Dinh et al. 2017).

    `backwards` moves the first half. At first it changes nothing. A scale is e^-2 to e^2.
    """

    def __init__(self, latent_dim: int, hidden_size: int | Sequence[int], backwards: bool) -> None:
        super().__init__()
        self.halves = [latent_dim // 2, latent_dim - latent_dim // 2]
        self.backwards = backwards
        self.net = mlp([self.halves[0], *widths(hidden_size), 2 * self.halves[1]], "relu")
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)

    def split(self, z: Tensor) -> list[Tensor]:
        """The half that is kept, and the half that moves."""
        z = z.flip(-1) if self.backwards else z
        return list(z.split(self.halves, -1))

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """z of its halves."""
        z = torch.cat([kept, moved], -1)
        return z.flip(-1) if self.backwards else z

    def forward(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and log-scale of the other half."""
        shift, raw = self.net(kept).chunk(2, -1)
        return shift, 2 * torch.tanh(raw / 2)


class Affine(Step):
    """A `Coupling` as a map and its inverse, each one pass."""

    def __init__(self, coupling: nn.Module) -> None:
        super().__init__()
        self.coupling: Any = coupling

    def moved(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self.coupling.split(x)
        shift, log_scale = self.coupling(kept)
        return self.coupling.join(kept, moved * log_scale.exp() + shift), log_scale.sum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        kept, moved = self.coupling.split(y)
        shift, log_scale = self.coupling(kept)
        x = self.coupling.join(kept, (moved - shift) * (-log_scale).exp())
        self.scored = x, log_scale.sum(-1)
        return x
