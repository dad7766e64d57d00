"""Linear and spherical interpolation."""

import pytest
import torch

from vae.model import interpolation


def test_linear_interpolation():
    a, b = torch.tensor([0.0, 2.0]), torch.tensor([4.0, 0.0])
    found = interpolation.linear(a, b, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 2.0], [1.0, 1.5], [4.0, 0.0]]))


def test_spherical_interpolation_keeps_the_norm_and_has_equal_angles():
    torch.manual_seed(0)
    a, b = torch.nn.functional.normalize(torch.randn(2, 5, 7), dim=-1) * 3
    t = torch.linspace(0, 1, 5)
    found = interpolation.spherical(a, b, t)
    torch.testing.assert_close(found.norm(dim=-1), torch.full((5, 5), 3.0))
    torch.testing.assert_close(found[0], a)
    torch.testing.assert_close(found[-1], b)
    angles = torch.nn.functional.cosine_similarity(found[:-1], found[1:], dim=-1).acos()
    torch.testing.assert_close(angles, angles[:1].expand(4, 5), atol=1e-3, rtol=0)
    longer = interpolation.spherical(a, 2 * b, t).norm(dim=-1)
    torch.testing.assert_close(longer[2], torch.full((5,), 4.5))


@pytest.mark.parametrize("b", [[-2.0, 0.0], [4.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
def test_spherical_interpolation_without_an_arc_is_linear(b):
    a, b, t = torch.tensor([1.0, 0.0]), torch.tensor(b), torch.linspace(0, 1, 5)
    torch.testing.assert_close(interpolation.spherical(a, b, t), interpolation.linear(a, b, t))


def test_loop_passes_through_every_code_and_closes():
    codes = torch.randn(3, 2, 5)
    found = interpolation.loop(codes, 40)
    assert found.shape == (120, 2, 5)
    torch.testing.assert_close(found[::40], codes)
    steps = (found - found.roll(1, 0)).norm(dim=-1)  # including the step from last to first
    assert steps.max() < 0.05 * (codes - codes.roll(1, 0)).norm(dim=-1).sum()


def test_smoothstep():
    t = [0, 0.25, 0.5, 0.75]
    torch.testing.assert_close(interpolation.smoothstep(4), torch.tensor([3 * x**2 - 2 * x**3 for x in t]))
