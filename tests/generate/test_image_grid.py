"""Pages and films, pixel by pixel."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vae.generate import image_grid


def test_a_sheet_shows_every_pixel_where_it_belongs():
    x = torch.rand(3, 1, 2, 4, generator=torch.manual_seed(0))
    page = image_grid.sheet(
        [image_grid.Row(x[:2], ["a", "b" * 200], side=8), image_grid.Row(x[2:], label="label", side=4)]
    )
    expected = (x * 255).round().byte().numpy()
    text = image_grid.font(image_grid.TEXT).getlength("label")
    left = image_grid.MARGIN + round(text) + image_grid.GAP
    for i, at in enumerate((left, left + 16 + image_grid.GAP)):
        place = page[image_grid.MARGIN : image_grid.MARGIN + 8, at : at + 16]
        np.testing.assert_array_equal(place, np.kron(expected[i, 0], np.ones((4, 4)))[..., None].repeat(3, 2))
    assert page.shape[1] == left + 2 * 16 + image_grid.GAP + image_grid.MARGIN
    top = image_grid.MARGIN + 8 + image_grid.TEXT + 8 + image_grid.GAP
    at = left + (2 * 16 + image_grid.GAP - 8) // 2
    np.testing.assert_array_equal(page[top : top + 4 : 2, at : at + 8 : 2, 1], expected[2, 0])
    assert page[: image_grid.MARGIN].min() == 255
    assert page[:, -image_grid.MARGIN + image_grid.GAP :].min() == 255  # no caption leaves the page
    ink = np.argwhere(page[image_grid.MARGIN + 8 : top - image_grid.GAP].min(-1) < 200)
    assert len(ink) > 3
    assert page[top - 4 : top + 8, image_grid.MARGIN : left - image_grid.GAP].min() < 200  # the label
    assert page[: image_grid.MARGIN + 8, : left - image_grid.GAP].min() == 255  # and none where there is none


def test_between_captions_stays_what_is_between_images():
    page = image_grid.sheet([image_grid.Row(torch.zeros(3, 1, 2, 8), ["one after the other"] * 3, side=16)])
    captions = page[image_grid.MARGIN + 16 : -image_grid.MARGIN].min(-1)
    images, gaps = np.split(captions[:, image_grid.MARGIN :], [64], 1)
    assert images.min() < 200
    assert gaps[:, : image_grid.GAP].min() == 255
    assert gaps[:, image_grid.GAP : image_grid.GAP + 64].min() < 200


def test_pixels_beyond_the_range_are_black_and_white():
    (shown,) = image_grid.arrays(torch.tensor([[[[-0.5, 0.0, 1.0, 1.5]]]]), 1)
    assert shown[0, :, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize(("fits", "size", "text"), [(13, 13, "charizard"), (10, 10, "charizard"), (0, 10, r"char\w*…")])
def test_a_caption_grows_smaller_before_it_is_cut(fits, size, text):
    drawn = []
    width = image_grid.font(fits).getlength("charizard") if fits else 40
    draw = SimpleNamespace(text=lambda at, text, _ink, font, anchor: drawn.append((at, text, font.size, anchor)))
    image_grid.written(draw, 5, 6, "charizard", width, "ma")
    ((at, found, points, anchor),) = drawn
    assert (at, points, anchor) == ((5, 6), size, "ma")
    assert re.fullmatch(text, found)
    assert image_grid.font(points).getlength(found) <= width


def test_a_gif_loops_through_its_frames_and_is_no_larger_than_allowed(monkeypatch):
    frames = torch.linspace(0, 1, 12).view(12, 1, 1, 1, 1) * torch.ones(12, 5, 1, 4, 4)
    film = Image.open(io.BytesIO(image_grid.moving(frames, 3, 50, width=42)))
    assert (film.n_frames, film.info["loop"], film.info["duration"]) == (12, 0, 50)
    assert film.size == (3 * 14 + 4 - 4, 2 * 14 - 2) or film.size[0] == 3 * 18 - 2
    for i in range(12):
        film.seek(i)
        shown = np.asarray(film.convert("L")).astype(int)
        assert abs(shown[3, 3] - 255 * i / 11) < 3
        assert shown[-1, -1] == 255  # there is no sixth image
    noise = torch.rand(6, 2, 3, 20, 20, generator=torch.manual_seed(0))
    large = image_grid.moving(noise, 2, 50, 400)
    monkeypatch.setattr(image_grid, "MOST", len(large) - 1)
    smaller = image_grid.moving(noise, 2, 50, 400)
    assert len(smaller) < len(large)
    assert Image.open(io.BytesIO(smaller)).size[0] < Image.open(io.BytesIO(large)).size[0]
    monkeypatch.setattr(image_grid, "MOST", len(image_grid.moving(noise, 2, 50, 40)) - 1)  # less than every pixel once
    smallest = Image.open(io.BytesIO(image_grid.moving(noise, 2, 50, 400)))
    assert (smallest.size, smallest.n_frames) == ((22, 10), 6)
    shown = np.asarray(smallest.convert("RGB"))[:, :10].mean((0, 1))
    np.testing.assert_allclose(shown, 255 * noise[0, 0].mean((1, 2)), atol=12)
