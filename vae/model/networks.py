"""Encoders: from x to what a posterior makes q(z|x) of. Decoders: from z to h, which a likelihood makes p(x|z) of."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def widths(hidden_size: int | Sequence[int]) -> list[int]:
    """One number is one layer of that width."""
    return [hidden_size] if isinstance(hidden_size, int) else list(hidden_size)


def dense(n_in: int, n_out: int, activation: str) -> list[nn.Module]:
    """A hidden layer: linear, then the activation."""
    return [nn.Linear(n_in, n_out), ACTIVATIONS[activation]()]


class Gated(nn.Module):
    """activation(A x + a) * sigmoid(B x + b) (Dauphin et al. 2017)."""

    def __init__(self, n_in: int, n_out: int, activation: str) -> None:
        super().__init__()
        self.value = nn.Sequential(*dense(n_in, n_out, activation))
        self.gate = nn.Sequential(*dense(n_in, n_out, "sigmoid"))

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(x)


def gated(n_in: int, n_out: int, activation: str) -> list[nn.Module]:
    """A hidden layer that is gated."""
    return [Gated(n_in, n_out, activation)]


def mlp(
    sizes: Sequence[int], activation: str, hidden: Callable[[int, int, str], list[nn.Module]] = dense
) -> nn.Sequential:
    """Hidden layers of these sizes, and at the end a linear one."""
    *inner, last = pairwise(sizes)
    layers = [module for n_in, n_out in inner for module in hidden(n_in, n_out, activation)]
    return nn.Sequential(*layers, nn.Linear(*last))


class MLPEncoder(nn.Module):
    """x (B, C, H, W) -> (B, outputs)."""

    hidden = staticmethod(dense)

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        hidden_size: int | Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        self.net = mlp([prod(shape), *widths(hidden_size), outputs], activation, self.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))


class MLPDecoder(nn.Module):
    """z (..., D) -> h (..., maps, H, W), through the encoder's layers in reverse."""

    hidden = staticmethod(dense)

    def __init__(
        self,
        shape: tuple[int, int, int],
        maps: int,
        latent_dim: int,
        hidden_size: int | Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        self.h_shape = (maps, *shape[1:])
        self.net = mlp([latent_dim, *reversed(widths(hidden_size)), prod(self.h_shape)], activation, self.hidden)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).unflatten(-1, self.h_shape)


class GatedMLPEncoder(MLPEncoder):
    """`MLPEncoder` with gated hidden layers; without an activation, that of Tomczak & Welling 2017."""

    hidden = staticmethod(gated)


class GatedMLPDecoder(MLPDecoder):
    """`MLPDecoder` with gated hidden layers."""

    hidden = staticmethod(gated)


class Residual(nn.Module):
    """h plus a change of it by two 3 x 3 convolutions; none at first."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(self.activation(self.first(self.activation(h))))


class UpsampleBlock(nn.Module):
    """Maps of half the size (n_in channels) -> maps of `size`, by a convolution that gives four pixels for one."""

    def __init__(self, n_in: int, n_out: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, 4 * n_out, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        height, width = self.size
        return self.shuffle(self.conv(h))[..., :height, :width]


def kaiming_init(net: nn.Module) -> None:
    """Draw weights that neither shrink nor blow up what passes through many layers (He et al. 2015)."""
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1 or name.endswith("second.weight"):  # biases, and what residual blocks add
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")


def downsampled_sizes(shape: tuple[int, int, int], times: int) -> list[tuple[int, int]]:
    """The size of an image, and of its maps each time they are halved; odd sizes round up."""
    return [(-(-shape[1] // 2**i), -(-shape[2] // 2**i)) for i in range(times + 1)]


class ConvEncoder(nn.Module):
    """x (B, C, H, W) of any size -> (B, outputs).

    A strided convolution for each of `channels` halves the maps; a residual block follows all but the first, whose
    maps are large; fully connected layers of `hidden_size` end it.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        channels: Sequence[int],
        hidden_size: int | Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(pairwise([shape[0], *channels])):
            layers += [ACTIVATIONS[activation](), nn.Conv2d(n_in, n_out, 3, stride=2, padding=1)]
            layers += [Residual(n_out, activation)] if i > 0 else []
        flat = channels[-1] * prod(downsampled_sizes(shape, len(channels))[-1])
        top = mlp([flat, *widths(hidden_size), outputs], activation)
        self.net = nn.Sequential(*layers[1:], ACTIVATIONS[activation](), nn.Flatten(), top)
        kaiming_init(self.net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ConvDecoder(nn.Module):
    """z (..., D) -> h (..., maps, H, W), through the encoder's layers in reverse."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        maps: int,
        latent_dim: int,
        channels: Sequence[int],
        hidden_size: int | Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        sizes = downsampled_sizes(shape, len(channels))
        top = mlp([latent_dim, *reversed(widths(hidden_size)), channels[-1] * prod(sizes[-1])], activation)
        layers: list[nn.Module] = [top, nn.Unflatten(-1, (channels[-1], *sizes[-1]))]
        for i, (n_out, n_in) in reversed(list(enumerate(pairwise([maps, *channels])))):
            layers += [Residual(n_in, activation)] if i > 0 else []
            layers += [ACTIVATIONS[activation](), UpsampleBlock(n_in, n_out, sizes[i])]
        self.net = nn.Sequential(*layers)
        kaiming_init(self.net)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
