"""Steps of normalizing flows: invertible maps of latents, (..., D), and the log-determinants of their Jacobians."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from vae.model.networks import layer_sizes, mlp, with_labels


class MaskedLinear(nn.Linear):
    """Linear layer with its weights multiplied by `mask`, (n_out, n_in)."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """Masked autoregressive network with one hidden layer (Germain et al. 2015).

    It maps z and a context to (m, s), each (..., D), where m_i and s_i depend on the context and on z_j with j < i
    only; with `reverse`, on j > i.
    """

    def __init__(self, latent_dim: int, hidden_size: int, context: int, reverse: bool) -> None:
        super().__init__()
        order = torch.arange(1, latent_dim + 1)
        order = order.flip(0) if reverse else order
        hidden = torch.arange(hidden_size) % latent_dim  # the number of z_j that each hidden unit depends on
        self.first = MaskedLinear(hidden[:, None] >= order)
        self.context = nn.Linear(context, hidden_size, bias=False)
        self.last = MaskedLinear(order.repeat(2)[:, None] > hidden)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        h = F.elu(self.first(z) + self.context(context))
        m, s = self.last(h).chunk(2, -1)
        return m, s


class FlowStep(Transform, ABC):
    """One invertible map. It caches its last input, output and log-determinant."""

    bijective = True
    domain = codomain = constraints.real_vector

    def __init__(self) -> None:
        super().__init__(cache_size=1)
        self.cached: tuple[Any, Any] = (None, None)  # the last x and its log-determinant

    @abstractmethod
    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y, (..., D), and log |det dy/dx|, (...)."""

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self.forward_and_log_det(x)
        self.cached = x, log_det
        return y

    def log_abs_det_jacobian(self, x: Tensor, _y: Tensor) -> Tensor:
        if self.cached[0] is not x:
            self._call(x)
        return self.cached[1]


class GatedAutoregressive(FlowStep):
    """z -> g z + (1 - g) m with gates g = sigmoid(s + GATE_BIAS) and (m, s) from a MADE (Kingma et al. 2016).

    The bias keeps the gates mostly open before training. The inverse takes D passes.
    """

    GATE_BIAS = 1.5

    def __init__(self, made: nn.Module, context: Tensor) -> None:
        super().__init__()
        self.made, self.context = made, context

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m, s = self.made(x, self.context)
        gate = (s + self.GATE_BIAS).sigmoid()
        return gate * x + (1 - gate) * m, F.logsigmoid(s + self.GATE_BIAS).sum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):  # each pass solves for one more dimension
            m, s = self.made(x, self.context)
            gate = (s + self.GATE_BIAS).sigmoid()
            x = (y - (1 - gate) * m) / gate
        return x


class Coupling(nn.Module):
    """Network of an affine coupling: half of z gives shift and scale of the other half (RealNVP, Dinh et al. 2017).

    They may also depend on labels. It transforms the second half of z, or with `reverse` the first. Scales are between
    e^-2 and e^2. Before training, the coupling is the identity.
    """

    def __init__(self, latent_dim: int, hidden_size: int | Sequence[int], reverse: bool, labels: int = 0) -> None:
        super().__init__()
        self.halves = [latent_dim // 2, latent_dim - latent_dim // 2]
        self.reverse = reverse
        self.net = mlp([self.halves[0] + labels, *layer_sizes(hidden_size), 2 * self.halves[1]], "relu")
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)

    def split(self, z: Tensor) -> list[Tensor]:
        """Return the half of z that stays the same, and the half that is transformed."""
        z = z.flip(-1) if self.reverse else z
        return list(z.split(self.halves, -1))

    def join(self, fixed: Tensor, transformed: Tensor) -> Tensor:
        """Return z from its halves: the inverse of `split`."""
        z = torch.cat([fixed, transformed], -1)
        return z.flip(-1) if self.reverse else z

    def forward(self, fixed: Tensor, *y: Tensor) -> tuple[Tensor, Tensor]:
        """Return shift and log-scale for the other half."""
        shift, raw = self.net(with_labels(fixed, *y)).chunk(2, -1)
        return shift, 2 * torch.tanh(raw / 2)


class AffineCoupling(FlowStep):
    """The map and the inverse of a `Coupling`, one pass each, given labels y, (B, labels), or none."""

    def __init__(self, coupling: nn.Module, *y: Tensor) -> None:
        super().__init__()
        self.coupling: Any = coupling
        self.y = y

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fixed, transformed = self.coupling.split(x)
        shift, log_scale = self.coupling(fixed, *self.y)
        return self.coupling.join(fixed, transformed * log_scale.exp() + shift), log_scale.sum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        fixed, transformed = self.coupling.split(y)
        shift, log_scale = self.coupling(fixed, *self.y)
        x = self.coupling.join(fixed, (transformed - shift) * (-log_scale).exp())
        self.cached = x, log_scale.sum(-1)
        return x
