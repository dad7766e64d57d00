"""Shapes of known factors: their moments tell the factors."""

import math

import pytest
import torch
from dataset_helpers import DEFAULTS, image_bytes, prepare, split_sizes

from datamodules.shapes import Shapes

FACTORS = ("shape", "scale", "orientation", "x", "y")


def load(**options):
    return prepare(Shapes(data_dir="", val_size=0.1, test_size=0.1, **{**DEFAULTS, **options}))


@pytest.fixture(scope="module")
def data():
    return load()


def test_every_combination_is_one_image_of_one_split(data):
    assert split_sizes(data) == {"train": 24576, "val": 3072, "test": 3072}
    assert data.shape == (1, 64, 64)
    seen = {split: image_bytes(images) for split, images in data.images.items()}
    assert len(seen["train"] | seen["val"] | seen["test"]) == 30720
    rows = [torch.stack([*images.factors.values()], 1) for images in data.images.values()]
    assert len(torch.cat(rows).unique(dim=0)) == 30720
    counts = [len(torch.cat([images.factors[name] for images in data.images.values()]).unique()) for name in FACTORS]
    assert counts == [3, 5, 8, 16, 16]
    assert [len(images.factors["shape"].unique()) for images in data.images.values()] == [3, 3, 3]


def test_images_are_the_same_each_time_and_the_split_depends_on_its_seed(data):
    again, other = load(), load(split_seed=1)
    assert torch.equal(again.images["test"].pixels, data.images["test"].pixels)
    assert not torch.equal(other.images["test"].pixels, data.images["test"].pixels)


@pytest.mark.parametrize("split", ["train", "test"])
def test_moments_of_an_image_tell_its_factors(data, split):
    images = data.images[split]
    assert images.classes == ["square", "ellipse", "heart"]
    assert torch.equal(images.labels, images.factors["shape"])
    pixels = images.pixels[:3000, 0].double()
    shape, scale, orientation, x, y = (images.factors[name][:3000].double() for name in FACTORS)
    area = pixels.sum((1, 2))
    place = torch.arange(64).double()
    mean_x, mean_y = pixels.sum(1) @ place / area, pixels.sum(2) @ place / area
    square, ellipse, heart = (shape == i for i in range(3))
    for found, expected in ((mean_x, x), (mean_y, y)):
        torch.testing.assert_close(found[~heart], expected[~heart], atol=0.2, rtol=0)
    torch.testing.assert_close(area[square], (1.4 * scale[square]) ** 2, atol=0, rtol=0.16)
    torch.testing.assert_close(area[ellipse], math.pi * scale[ellipse] ** 2 / 2, atol=0, rtol=0.12)
    dx, dy = place - mean_x[:, None], place - mean_y[:, None]
    xx, yy = (pixels.sum(1) * dx**2).sum(1), (pixels.sum(2) * dy**2).sum(1)
    xy = torch.einsum("nij,ni,nj->n", pixels, dy, dx)
    long_axis = (torch.atan2(2 * xy, xx - yy) / 2).rad2deg()  # clockwise from the right
    torch.testing.assert_close(long_axis[ellipse], orientation[ellipse], atol=6, rtol=0)
    angle = orientation.deg2rad()  # the heart's centre of mass is above the centre of its circle
    above = (mean_x - x) * angle.sin() - (mean_y - y) * angle.cos()
    across = (mean_x - x) * angle.cos() + (mean_y - y) * angle.sin()
    assert (above[heart] > 0.05 * scale[heart]).all()
    assert (across[heart].abs() < 0.5).all()


def test_a_square_is_widest_along_its_diagonals(data):
    """A square of side s that is turned by an angle a has the width s (cos a + sin a)."""
    images = data.images["train"]
    square = images.factors["shape"] == 0
    orientation, scale = images.factors["orientation"][square].deg2rad(), images.factors["scale"][square]
    width = images.pixels[square, 0].any(1).sum(1)
    expected = 1.4 * scale * (orientation.cos() + orientation.sin())
    torch.testing.assert_close(width.float(), expected, atol=2, rtol=0)
