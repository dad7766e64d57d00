from functools import partial

import pytest
import torch
from torch import nn

from vae.config.schema import Config
from vae.model.networks import (
    ACTIVATIONS,
    ConvDecoder,
    ConvEncoder,
    Gated,
    GatedMLPDecoder,
    GatedMLPEncoder,
    MLPDecoder,
    MLPEncoder,
)


def layers(module):
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def test_the_lesson_s_network():
    encoder = MLPEncoder((1, 28, 28), outputs=40, hidden_size=500, activation="tanh")
    decoder = MLPDecoder((1, 28, 28), 1, latent_dim=20, hidden_size=500, activation="tanh")
    assert layers(encoder) == [(784, 500), (500, 40)]
    assert layers(decoder) == [(20, 500), (500, 784)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 10)])
def test_hidden_layers_are_mirrored_and_shapes_come_from_the_image(shape):
    n = shape[0] * shape[1] * shape[2]
    encoder = MLPEncoder(shape, outputs=6, hidden_size=[40, 20], activation="relu")
    decoder = MLPDecoder(shape, 2 * shape[0], latent_dim=3, hidden_size=[40, 20], activation="relu")
    assert layers(encoder) == [(n, 40), (40, 20), (20, 6)]
    assert layers(decoder) == [(3, 20), (20, 40), (40, 2 * n)]
    assert encoder(torch.rand(5, *shape)).shape == (5, 6)
    assert decoder(torch.rand(7, 5, 3)).shape == (7, 5, 2 * shape[0], *shape[1:])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 48, 48), (1, 28, 20), (3, 5, 9), (1, 1, 1)])
def test_convolutions_take_images_of_any_size_and_colour(shape):
    sizes = {"channels": [4, 8, 6], "hidden_size": [20, 10], "activation": "silu"}
    encoder, decoder = ConvEncoder(shape, 8, **sizes), ConvDecoder(shape, 5, 4, **sizes)
    assert encoder(torch.rand(2, *shape)).shape == (2, 8)
    z = torch.rand(3, 2, 4)
    assert decoder(z).shape == (3, 2, 5, *shape[1:])
    torch.testing.assert_close(decoder(z[1]), decoder(z)[1])
    quarter = torch.Size((-(-shape[1] // 8), -(-shape[2] // 8)))
    assert layers(encoder)[0] == (6 * quarter.numel(), 20)
    assert layers(decoder) == [(4, 10), (10, 20), (20, 6 * quarter.numel())]


@pytest.mark.parametrize("networks", [(MLPEncoder, MLPDecoder), (ConvEncoder, ConvDecoder)], ids=["mlp", "conv"])
def test_every_pixel_counts_in_the_code_and_every_code_in_every_pixel(networks):
    shape, sizes = (2, 7, 10), {"hidden_size": 12, "activation": "tanh"}
    if networks[0] is ConvEncoder:
        sizes["channels"] = [4, 6]
    encoder, decoder = networks[0](shape, 6, **sizes), networks[1](shape, maps=3, latent_dim=3, **sizes)
    x = torch.rand(1, *shape, requires_grad=True)
    encoder(x).sum().backward()
    assert (x.grad != 0).all()
    moved = torch.func.jacrev(partial(decoder.forward))(torch.zeros(1, 3))
    assert (moved != 0).all()


def test_gated_layers_are_half_of_what_torch_s_glu_is_given():
    torch.manual_seed(0)
    layer, x = Gated(5, 3, "identity"), torch.randn(7, 5)
    both = torch.cat([x @ part[0].weight.T + part[0].bias for part in (layer.value, layer.gate)], 1)
    torch.testing.assert_close(layer(x), nn.functional.glu(both))
    encoder = GatedMLPEncoder((1, 28, 20), outputs=80, hidden_size=[300, 300], activation="identity")
    assert layers(encoder) == [(560, 300), (560, 300), (300, 300), (300, 300), (300, 80)]
    decoder = GatedMLPDecoder((1, 28, 20), 2, latent_dim=40, hidden_size=[300, 200], activation="identity")
    assert layers(decoder) == [(40, 200), (40, 200), (200, 300), (200, 300), (300, 1120)]


def test_the_command_line_allows_the_activations_there_are():
    assert Config.model_fields["activation"].annotation.__args__ == tuple(ACTIVATIONS)
