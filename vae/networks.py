"""Encoders, x -> q(z|x), and decoders, z -> h, the parameters of p(x|z) for each pixel."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
}


def diagonal_gaussian(parameters: Tensor) -> Distribution:
    """N(mean, diag(exp(log_var))) from (..., 2 D): the means, then the log-variances."""
    mean, log_var = parameters.chunk(2, -1)
    return Independent(Normal(mean, (log_var / 2).exp(), validate_args=False), 1, validate_args=False)


def widths(hidden_size: int | Sequence[int]) -> list[int]:
    """One number is one layer of that width."""
    return [hidden_size] if isinstance(hidden_size, int) else list(hidden_size)


def mlp(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers of these sizes, with the activation between them and none at the end."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


class MLPEncoder(nn.Module):
    """x (B, C, H, W) -> q(z|x), a diagonal Gaussian over D = latent_dim codes."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_dim: int,
        hidden_size: int | Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        self.net = mlp([prod(shape), *widths(hidden_size), 2 * latent_dim], activation)

    def forward(self, x: Tensor) -> Distribution:
        return diagonal_gaussian(self.net(x.flatten(1)))


class MLPDecoder(nn.Module):
    """z (..., D) -> h (..., params_per_pixel * C, H, W), through the encoder's layers in reverse."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        params_per_pixel: int,
        latent_dim: int,
        hidden_size: int | Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        self.h_shape = (params_per_pixel * shape[0], *shape[1:])
        self.net = mlp([latent_dim, *reversed(widths(hidden_size)), prod(self.h_shape)], activation)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).unflatten(-1, self.h_shape)
