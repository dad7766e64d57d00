import pytest
import torch
from torch import nn

from vae.config import Config
from vae.networks import ACTIVATIONS, MLPDecoder, MLPEncoder


def layers(module):
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def test_the_lesson_s_network():
    encoder = MLPEncoder((1, 28, 28), latent_dim=20, hidden_size=500, activation="tanh")
    decoder = MLPDecoder((1, 28, 28), 1, latent_dim=20, hidden_size=500, activation="tanh")
    assert layers(encoder) == [(784, 500), (500, 40)]
    assert layers(decoder) == [(20, 500), (500, 784)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 10)])
def test_hidden_layers_are_mirrored_and_shapes_come_from_the_image(shape):
    n = shape[0] * shape[1] * shape[2]
    encoder = MLPEncoder(shape, latent_dim=3, hidden_size=[40, 20], activation="relu")
    decoder = MLPDecoder(shape, 2, latent_dim=3, hidden_size=[40, 20], activation="relu")
    assert layers(encoder) == [(n, 40), (40, 20), (20, 6)]
    assert layers(decoder) == [(3, 20), (20, 40), (40, 2 * n)]
    q = encoder(torch.rand(5, *shape))
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))
    assert decoder(q.rsample((7,))).shape == (7, 5, 2 * shape[0], *shape[1:])


def test_encoder_gives_means_then_log_variances():
    encoder = MLPEncoder((1, 1, 1), latent_dim=2, hidden_size=1, activation="tanh")
    last = encoder.net[-1]
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([0.5, -1.0, 0.0, 2 * torch.log(torch.tensor(3.0))])
    q = encoder(torch.zeros(1, 1, 1, 1)).base_dist
    torch.testing.assert_close(q.mean, torch.tensor([[0.5, -1.0]]))
    torch.testing.assert_close(q.stddev, torch.tensor([[1.0, 3.0]]))


def test_the_command_line_allows_the_activations_there_are():
    assert Config.model_fields["activation"].annotation.__args__ == tuple(ACTIVATIONS)
