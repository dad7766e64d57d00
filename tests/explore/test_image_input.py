"""Uploaded image files and drawn digits."""

import numpy as np
import pytest
import torch
from explore_client import Named, encode_file
from fakes import load_data
from PIL import Image, ImageDraw

from datamodules.base import Images
from vae.errors import UserError
from vae.explore import image_input


class Dark(Named):
    """Grey images of 28 x 28 pixels on black."""

    def load(self):
        pixels = torch.zeros(60, 1, 28, 28, dtype=torch.uint8)
        pixels[:, :, 6:20, 6:20] = 200
        return self.split_off(Images(pixels)) | {"test": Images(pixels[:8])}


class Light(Dark):
    def load(self):
        return {split: Images(255 - images.pixels) for split, images in super().load().items()}


class Grey(Dark):
    def load(self):
        return {split: Images(images.pixels // 2 + 60) for split, images in super().load().items()}


class Colour(Dark):
    def load(self):
        return {split: Images(images.pixels.expand(-1, 3, -1, -1)) for split, images in super().load().items()}


@pytest.mark.parametrize(("dataset", "background"), [(Dark, "dark"), (Light, "light"), (Grey, None), (Colour, None)])
def test_background_of_grey_images(dataset, background):
    assert image_input.background_of(load_data(dataset)) == background


@pytest.mark.parametrize(
    ("level", "background", "opposite"),
    [
        (250, "dark", True),
        (160, "dark", True),
        (140, "dark", False),
        (0, "dark", False),
        (0, "light", True),
        (120, "light", False),
        (255, "light", False),
        (255, None, False),
    ],
)
def test_opposite_background_is_that_of_the_border(level, background, opposite):
    pixels = torch.full((1, 9, 8), level, dtype=torch.uint8)
    pixels[:, 1:-1, 1:-1] = 255 - level
    pixels[:, 0, :5] = 255 - level  # a stroke that touches the border
    assert image_input.has_opposite_background(pixels, background) == opposite


@pytest.mark.parametrize("background", ["dark", "light"])
def test_drawing_is_centred_as_digits_of_mnist(background):
    drawing = Image.new("L", (280, 280))
    ImageDraw.Draw(drawing).rectangle([10, 20, 29, 99], fill=255)  # 20 wide, 80 high, in a corner
    centred = np.asarray(Image.open(image_input.centre_drawing(encode_file(drawing), (1, 28, 28), background)))
    ink = (255.0 - centred) if background == "light" else centred.astype(float)
    assert ink.shape == (28, 28)
    rows, columns = (np.flatnonzero(ink.sum(axis) > 500) for axis in (1, 0))
    assert (len(rows), len(columns)) == (20, 5)
    assert abs(np.average(np.arange(28) + 0.5, weights=ink.sum(1)) - 14) <= 0.5
    assert abs(np.average(np.arange(28) + 0.5, weights=ink.sum(0)) - 14) <= 0.5


def test_empty_drawing_is_an_error():
    dots = Image.new("L", (2000, 2000))
    for at in [(0, 0), (1999, 1999)]:
        dots.putpixel(at, 60)
    for drawing in (Image.new("L", (280, 280)), dots):
        with pytest.raises(UserError, match="the drawing is empty"):
            image_input.centre_drawing(encode_file(drawing), (1, 28, 28), "dark")
