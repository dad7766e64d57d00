"""Encoder and decoder networks."""

from functools import partial

import pytest
import torch
from torch import nn

from vae.config.schema import Config
from vae.model.networks import (
    ACTIVATIONS,
    ConvDecoder,
    ConvEncoder,
    GatedLinear,
    GatedMLPDecoder,
    GatedMLPEncoder,
    MLPDecoder,
    MLPEncoder,
)


def linear_layers(module):
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def test_layers_of_the_lesson_experiment():
    encoder = MLPEncoder((1, 28, 28), outputs=40, hidden_size=500, activation="tanh")
    decoder = MLPDecoder((1, 28, 28), 1, latent_dim=20, hidden_size=500, activation="tanh")
    assert linear_layers(encoder) == [(784, 500), (500, 40)]
    assert linear_layers(decoder) == [(20, 500), (500, 784)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 10)])
def test_mlp_decoder_mirrors_the_encoder(shape):
    n = shape[0] * shape[1] * shape[2]
    encoder = MLPEncoder(shape, outputs=6, hidden_size=[40, 20], activation="relu")
    decoder = MLPDecoder(shape, 2 * shape[0], latent_dim=3, hidden_size=[40, 20], activation="relu")
    assert linear_layers(encoder) == [(n, 40), (40, 20), (20, 6)]
    assert linear_layers(decoder) == [(3, 20), (20, 40), (40, 2 * n)]
    assert encoder(torch.rand(5, *shape)).shape == (5, 6)
    assert decoder(torch.rand(7, 5, 3)).shape == (7, 5, 2 * shape[0], *shape[1:])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 48, 48), (1, 28, 20), (3, 5, 9), (1, 1, 1)])
def test_conv_networks_accept_images_of_any_shape(shape):
    sizes = {"channels": [4, 8, 6], "hidden_size": [20, 10], "activation": "silu"}
    encoder, decoder = ConvEncoder(shape, 8, **sizes), ConvDecoder(shape, 5, 4, **sizes)
    assert encoder(torch.rand(2, *shape)).shape == (2, 8)
    z = torch.rand(3, 2, 4)
    assert decoder(z).shape == (3, 2, 5, *shape[1:])
    torch.testing.assert_close(decoder(z[1]), decoder(z)[1])
    eighth = torch.Size((-(-shape[1] // 8), -(-shape[2] // 8)))
    assert linear_layers(encoder)[0] == (6 * eighth.numel(), 20)
    assert linear_layers(decoder) == [(4, 10), (10, 20), (20, 6 * eighth.numel())]


@pytest.mark.parametrize("networks", [(MLPEncoder, MLPDecoder), (ConvEncoder, ConvDecoder)], ids=["mlp", "conv"])
def test_all_outputs_depend_on_all_inputs(networks):
    shape, sizes = (2, 7, 10), {"hidden_size": 12, "activation": "tanh"}
    if networks[0] is ConvEncoder:
        sizes["channels"] = [4, 6]
    encoder, decoder = networks[0](shape, 6, **sizes), networks[1](shape, h_channels=3, latent_dim=3, **sizes)
    x = torch.rand(1, *shape, requires_grad=True)
    encoder(x).sum().backward()
    assert (x.grad != 0).all()
    jacobian = torch.func.jacrev(partial(decoder.forward))(torch.zeros(1, 3))
    assert (jacobian != 0).all()


def test_gated_layer_matches_torch_glu():
    torch.manual_seed(0)
    layer, x = GatedLinear(5, 3, "identity"), torch.randn(7, 5)
    both = torch.cat([x @ branch[0].weight.T + branch[0].bias for branch in (layer.value, layer.gate)], 1)
    torch.testing.assert_close(layer(x), nn.functional.glu(both))
    encoder = GatedMLPEncoder((1, 28, 20), outputs=80, hidden_size=[300, 300], activation="identity")
    assert linear_layers(encoder) == [(560, 300), (560, 300), (300, 300), (300, 300), (300, 80)]
    decoder = GatedMLPDecoder((1, 28, 20), 2, latent_dim=40, hidden_size=[300, 200], activation="identity")
    assert linear_layers(decoder) == [(40, 200), (40, 200), (200, 300), (200, 300), (300, 1120)]


def test_config_schema_lists_all_activations():
    assert Config.model_fields["activation"].annotation.__args__ == tuple(ACTIVATIONS)
