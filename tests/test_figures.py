"""Figures of models whose pictures are known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from vae import figures
from vae.model.likelihoods import Bernoulli
from vae.model.priors import StandardNormal
from vae.model.vae import VAE


class Codes(nn.Module):
    """q(z|x) whose mean is the first two pixels."""

    def forward(self, x):
        return Independent(Normal(x.flatten(1)[:, :2], 0.1), 1)


class Pixels(nn.Module):
    """p(x|z) of two pixels whose logits are z."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z):
        return (z * self.scale).unflatten(-1, (1, 1, 2))


VAE_2D = VAE(nn.Identity(), Codes(), Pixels(), Bernoulli(), StandardNormal(2, (1, 1, 2)))


def cells(picture, columns, rows):
    """Return the two pixels of each image of a grid, (rows, columns, 2), in [0, 1]."""
    zoom = picture.shape[0] // (3 * rows + 2)
    small = picture[zoom // 2 :: zoom, zoom // 2 :: zoom, 0] / 255
    return np.stack([small[2::3, 2::4][:rows, :columns], small[2::3, 3::4][:rows, :columns]], -1)


def test_grid_keeps_pixels_and_order():
    x = torch.tensor([[0.0, 1.0], [0.2, 0.4], [0.6, 0.8]]).view(3, 1, 1, 2)
    shown = cells(figures.grid(x, 3), 3, 1)
    np.testing.assert_allclose(shown[0], x.flatten(1), atol=1 / 255)


def test_each_image_is_left_of_its_reconstruction():
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    with torch.inference_mode():
        shown = cells(figures.reconstructions(VAE_2D, x, columns=1), 2, 2)
    np.testing.assert_allclose(shown[:, 0], x.flatten(1), atol=1 / 255)
    np.testing.assert_allclose(shown[:, 1], x.flatten(1).sigmoid(), atol=1 / 255)


def test_manifold_maps_the_unit_square_through_the_inverse_cdf():
    with torch.inference_mode():
        shown = cells(figures.manifold(VAE_2D, side=4), 4, 4)
    quantiles = [-1.1503, -0.3186, 0.3186, 1.1503]  # at 1/8, 3/8, 5/8, 7/8, from a table
    p = [1 / (1 + math.exp(-z)) for z in quantiles]
    np.testing.assert_allclose(shown[..., 0], [p] * 4, atol=1.5 / 255)  # z_1 to the right
    np.testing.assert_allclose(shown[..., 1], np.array([p] * 4).T[::-1], atol=1.5 / 255)  # z_2 upwards


def test_samples_have_the_moments_of_the_prior():
    torch.manual_seed(0)
    with torch.inference_mode():
        shown = cells(figures.samples(VAE_2D, n=2500, columns=50), 50, 50)
    z = np.log(shown / (1 - shown)).reshape(-1, 2)
    np.testing.assert_allclose(z.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.12)


def test_mixture_samples_are_close_to_the_codes():
    torch.manual_seed(0)
    centres = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
    codes = (centres[:, None] + 0.1 * torch.randn(2, 500, 2)).flatten(0, 1)
    with torch.inference_mode():
        shown = cells(figures.mixture_samples(VAE_2D, codes, n=2500, columns=50), 50, 50)
    z = torch.from_numpy(np.log(shown / (1 - shown)).reshape(-1, 2))
    distance = torch.cdist(z, centres.double())
    assert (distance.min(1).values < 1).all()
    assert 0.4 < distance.argmin(1).double().mean() < 0.6


def test_fusions_show_both_images_and_the_decoded_points_between():
    x = torch.tensor([[0.0, 1.0], [0.8, 1.0]]).view(2, 1, 1, 2)
    with torch.inference_mode():
        (picture,) = figures.fusions(VAE_2D, x, None, steps=5).max(-1)[None] / 255
    row = picture[picture.shape[0] // 2 + 4]  # a pixel row through all seven pictures
    found = row[np.flatnonzero(np.diff(row, prepend=-1))]
    z = np.linspace(0, 0.8, 5)
    left = np.array([0.0, *(1 / (1 + np.exp(-z))), 0.8])
    at = [np.abs(found - value).argmin() for value in left]
    np.testing.assert_allclose(found[at], left, atol=1 / 255)
    assert at == sorted(set(at))


def test_fusions_have_the_name_of_each_image_below_it(monkeypatch):
    monkeypatch.setattr(figures, "render_rows", lambda rows: rows)
    x = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1, 1).expand(4, 1, 1, 2)
    with torch.inference_mode():
        rows = figures.fusions(VAE_2D, x, ["a", "b", "c", "d"], steps=3)
    ends = [row.images[[0, -1], 0, 0, 0].tolist() for row in rows]
    np.testing.assert_allclose(ends, [[0.1, 0.2], [0.3, 0.4]], rtol=1e-6)
    assert [row.captions for row in rows] == [["a", "", "", "", "b"], ["c", "", "", "", "d"]]


def test_principal_components_are_the_directions_of_most_variance():
    torch.manual_seed(0)
    codes = torch.randn(500, 4) * torch.tensor([0.1, 3.0, 0.2, 1.0]) + 5
    projection = figures.fit_projection(codes)
    z, names = projection.project(codes), projection.axis_names
    centred = codes.double() - codes.double().mean(0)
    for component, axis in ((0, 1), (1, 3)):
        assert abs(torch.corrcoef(torch.stack([z[:, component], centred[:, axis]]))[0, 1]) > 0.99
    explained = 9 / (0.01 + 9 + 0.04 + 1)
    assert abs(int(names[0].split("(")[1].split("%")[0]) / 100 - explained) < 0.02


def test_codes_of_one_or_two_dimensions_are_not_projected():
    codes = torch.randn(5, 2)
    projection = figures.fit_projection(codes)
    z, names = projection.project(codes), projection.axis_names
    torch.testing.assert_close(z, codes.double())
    assert names == ["$z_1$", "$z_2$"]
    z = figures.fit_projection(codes[:, :1]).project(codes[:, :1])
    torch.testing.assert_close(z[:, 0], codes[:, 0].double())
    assert (z[:, 1] == 0).all()


@pytest.mark.parametrize("n", [10, figures.MAX_CLASSES])
def test_each_class_has_its_own_colour(n):
    assert len(set(figures.class_colours(n))) == n


def test_points_have_the_colours_of_their_classes():
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    picture = figures.scatter_plot(z, ["", ""], torch.tensor([3, 5, 9]), None, "").astype(float)
    for colour in figures.class_colours(3):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        blended = 0.6 * rgb + 0.4 * 255
        assert (np.abs(picture - blended).max(-1) < 3).sum() > 100


def test_labels_are_shown_by_their_names(monkeypatch):
    monkeypatch.setattr(figures, "render", lambda figure: figure)
    classes = [f"_{i}$" for i in range(30)]
    figure = figures.scatter_plot(torch.rand(20, 2), ["", ""], torch.arange(20) + 10, classes, "")
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == [rf" _{i}\$" for i in range(10, 30)]
    figure = figures.scatter_plot(torch.rand(30, 2), ["", ""], torch.arange(30), classes, "")
    ticks = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert {ticks[0], ticks[-1]} == {r" _0\$", r" _29\$"}
