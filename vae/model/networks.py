"""Encoder and decoder networks. Encoders map x to the parameters of q(z|x), decoders map z to h, those of p(x|z)."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
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


def layer_sizes(hidden_size: int | Sequence[int]) -> list[int]:
    """Return the sizes of the hidden layers. A single number means one layer."""
    return [hidden_size] if isinstance(hidden_size, int) else list(hidden_size)


def dense_layer(n_in: int, n_out: int, activation: str) -> list[nn.Module]:
    """Return the modules of a fully connected hidden layer: linear, then the activation."""
    return [nn.Linear(n_in, n_out), ACTIVATIONS[activation]()]


class GatedLinear(nn.Module):
    """activation(A x + a) * sigmoid(B x + b) (Dauphin et al. 2017)."""

    def __init__(self, n_in: int, n_out: int, activation: str) -> None:
        super().__init__()
        self.value = nn.Sequential(*dense_layer(n_in, n_out, activation))
        self.gate = nn.Sequential(*dense_layer(n_in, n_out, "sigmoid"))

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(x)


def gated_layer(n_in: int, n_out: int, activation: str) -> list[nn.Module]:
    """Return the modules of a gated hidden layer."""
    return [GatedLinear(n_in, n_out, activation)]


def mlp(
    sizes: Sequence[int], activation: str, hidden_layer: Callable[[int, int, str], list[nn.Module]] = dense_layer
) -> nn.Sequential:
    """Return a multilayer perceptron. `sizes` are those of the input, of the hidden layers and of the output."""
    *inner, last = pairwise(sizes)
    layers = [module for n_in, n_out in inner for module in hidden_layer(n_in, n_out, activation)]
    return nn.Sequential(*layers, nn.Linear(*last))


class MLPEncoder(nn.Module):
    """Fully connected encoder: x (B, C, H, W) -> (B, outputs)."""

    hidden_layer = staticmethod(dense_layer)

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        hidden_size: int | Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        self.net = mlp([prod(shape), *layer_sizes(hidden_size), outputs], activation, self.hidden_layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))


class MLPDecoder(nn.Module):
    """Fully connected decoder: z (..., D) -> h (..., h_channels, H, W). Its hidden layers mirror the encoder's."""

    hidden_layer = staticmethod(dense_layer)

    def __init__(
        self,
        shape: tuple[int, int, int],
        h_channels: int,
        latent_dim: int,
        hidden_size: int | Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        self.h_shape = (h_channels, *shape[1:])
        sizes = [latent_dim, *reversed(layer_sizes(hidden_size)), prod(self.h_shape)]
        self.net = mlp(sizes, activation, self.hidden_layer)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).unflatten(-1, self.h_shape)


class GatedMLPEncoder(MLPEncoder):
    """`MLPEncoder` with gated hidden layers. With activation "identity", it is that of Tomczak & Welling (2018)."""

    hidden_layer = staticmethod(gated_layer)


class GatedMLPDecoder(MLPDecoder):
    """`MLPDecoder` with gated hidden layers."""

    hidden_layer = staticmethod(gated_layer)


def with_labels(z: Tensor, *y: Tensor) -> Tensor:
    """Append labels y, (B, labels), to z, (..., B, D). Without labels, return z."""
    return torch.cat([z, *(label.expand(*z.shape[:-1], -1) for label in y)], -1) if y else z


class ConditionalEncoder(nn.Module):
    """x (B, C, H, W) and labels y (B, labels) -> the output of `encoder`, for images with one more channel.

    This channel is a learned image for each label.
    """

    def __init__(self, encoder: nn.Module, labels: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding = nn.Linear(labels, prod(shape[1:]), bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.encoder(torch.cat([x, self.embedding(y).unflatten(1, (1, *x.shape[2:]))], 1))


class ConditionalDecoder(nn.Module):
    """z (..., B, D) and labels y (B, labels) -> the output of `decoder` for z with y appended, (..., B, D + labels)."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.decoder(with_labels(z, y))


class ResidualBlock(nn.Module):
    """h + f(h), with two 3 x 3 convolutions as f. `kaiming_init` makes it the identity before training."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(self.activation(self.first(self.activation(h))))


class UpsampleBlock(nn.Module):
    """Double the resolution by a sub-pixel convolution (Shi et al. 2016), then crop to `size`, for odd sizes.

    (B, n_in, ceil(size / 2)) -> (B, n_out, size).
    """

    def __init__(self, n_in: int, n_out: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, 4 * n_out, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        height, width = self.size
        return self.shuffle(self.conv(h))[..., :height, :width]


def kaiming_init(net: nn.Module) -> None:
    """Initialise weights so that activations neither vanish nor explode in deep networks (He et al. 2015)."""
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1 or name.endswith("second.weight"):  # residual blocks start as the identity
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")


def downsampled_sizes(shape: tuple[int, int, int], times: int) -> list[tuple[int, int]]:
    """Return the (height, width) of the image and of its feature maps after each halving. Odd sizes round up."""
    return [(-(-shape[1] // 2**i), -(-shape[2] // 2**i)) for i in range(times + 1)]


class ConvEncoder(nn.Module):
    """Convolutional encoder for images of any size: x (B, C, H, W) -> (B, outputs).

    One strided convolution for each entry of `channels` halves the feature maps. A residual block follows each but the
    first, whose feature maps are large. Fully connected layers of `hidden_size` come last.
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
            layers += [ResidualBlock(n_out, activation)] if i > 0 else []
        n_flat = channels[-1] * prod(downsampled_sizes(shape, len(channels))[-1])
        top = mlp([n_flat, *layer_sizes(hidden_size), outputs], activation)
        self.net = nn.Sequential(*layers[1:], ACTIVATIONS[activation](), nn.Flatten(), top)
        kaiming_init(self.net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ConvDecoder(nn.Module):
    """Convolutional decoder: z (..., D) -> h (..., h_channels, H, W). Its layers mirror the encoder's."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        h_channels: int,
        latent_dim: int,
        channels: Sequence[int],
        hidden_size: int | Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        sizes = downsampled_sizes(shape, len(channels))
        top = mlp([latent_dim, *reversed(layer_sizes(hidden_size)), channels[-1] * prod(sizes[-1])], activation)
        layers: list[nn.Module] = [top, nn.Unflatten(-1, (channels[-1], *sizes[-1]))]
        for i, (n_out, n_in) in reversed(list(enumerate(pairwise([h_channels, *channels])))):
            layers += [ResidualBlock(n_in, activation)] if i > 0 else []
            layers += [ACTIVATIONS[activation](), UpsampleBlock(n_in, n_out, sizes[i])]
        self.net = nn.Sequential(*layers)
        kaiming_init(self.net)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
