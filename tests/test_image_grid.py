"""Image grids and GIFs, pixel by pixel."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vae import image_grid


def test_rows_are_drawn_pixel_by_pixel():
    x = torch.rand(3, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    page = image_grid.render_rows(
        [image_grid.Row(x[:2], ["a", "b" * 200], side=8), image_grid.Row(x[2:], label="label", side=4)]
    )
    expected = (x * 255).round().byte().numpy()
    text = image_grid.font(image_grid.FONT_SIZE).getlength("label")
    left = image_grid.MARGIN + round(text) + image_grid.GAP
    for i, at in enumerate((left, left + 16 + image_grid.GAP)):
        place = page[image_grid.MARGIN : image_grid.MARGIN + 8, at : at + 16]
        np.testing.assert_array_equal(place, np.kron(expected[i, 0], np.ones((4, 4)))[..., None].repeat(3, 2))
    assert page.shape[1] == left + 2 * 16 + image_grid.GAP + image_grid.MARGIN
    top = image_grid.MARGIN + 8 + image_grid.FONT_SIZE + 8 + image_grid.GAP
    at = left + (2 * 16 + image_grid.GAP - 8) // 2
    np.testing.assert_array_equal(page[top : top + 4 : 2, at : at + 8 : 2, 1], expected[2, 0])
    assert page[: image_grid.MARGIN].min() == 255
    assert page[:, -image_grid.MARGIN + image_grid.GAP :].min() == 255  # captions stay on the page
    ink = np.argwhere(page[image_grid.MARGIN + 8 : top - image_grid.GAP].min(-1) < 200)
    assert len(ink) > 3
    assert page[top - 4 : top + 8, image_grid.MARGIN : left - image_grid.GAP].min() < 200  # the label
    assert page[: image_grid.MARGIN + 8, : left - image_grid.GAP].min() == 255  # the row without a label has none


def test_captions_do_not_touch():
    page = image_grid.render_rows([image_grid.Row(torch.zeros(3, 1, 2, 8), ["a long caption text"] * 3, side=16)])
    captions = page[image_grid.MARGIN + 16 : -image_grid.MARGIN].min(-1)
    images, gaps = np.split(captions[:, image_grid.MARGIN :], [64], 1)
    assert images.min() < 200
    assert gaps[:, : image_grid.GAP].min() == 255
    assert gaps[:, image_grid.GAP : image_grid.GAP + 64].min() < 200


def test_pixels_are_clamped():
    (shown,) = image_grid.to_arrays(torch.tensor([[[[-0.5, 0.0, 1.0, 1.5]]]]), 1)
    assert shown[0, :, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize(("fits", "size", "text"), [(13, 13, "charizard"), (10, 10, "charizard"), (0, 10, r"char\w*…")])
def test_caption_gets_a_smaller_font_and_is_then_shortened(fits, size, text):
    drawn = []
    width = image_grid.font(fits).getlength("charizard") if fits else 40
    draw = SimpleNamespace(text=lambda at, text, _ink, font, anchor: drawn.append((at, text, font.size, anchor)))
    image_grid.draw_text(draw, 5, 6, "charizard", width, "ma")
    ((at, found, points, anchor),) = drawn
    assert (at, points, anchor) == ((5, 6), size, "ma")
    assert re.fullmatch(text, found)
    assert image_grid.font(points).getlength(found) <= width


def test_gif_loops_and_keeps_the_maximal_size(monkeypatch):
    frames = torch.linspace(0, 1, 12).view(12, 1, 1, 1, 1) * torch.ones(12, 5, 1, 4, 4)
    gif = Image.open(io.BytesIO(image_grid.animate(frames, 3, 50, width=42)))
    assert (gif.n_frames, gif.info["loop"], gif.info["duration"]) == (12, 0, 50)
    assert gif.size == (3 * 14 + 4 - 4, 2 * 14 - 2) or gif.size[0] == 3 * 18 - 2
    for i in range(12):
        gif.seek(i)
        shown = np.asarray(gif.convert("L")).astype(int)
        assert abs(shown[3, 3] - 255 * i / 11) < 3
        assert shown[-1, -1] == 255  # the place of a sixth image is white
    noise = torch.rand(6, 2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    large = image_grid.animate(noise, 2, 50, 400)
    monkeypatch.setattr(image_grid, "MAX_GIF_BYTES", len(large) - 1)
    smaller = image_grid.animate(noise, 2, 50, 400)
    assert len(smaller) < len(large)
    assert Image.open(io.BytesIO(smaller)).size[0] < Image.open(io.BytesIO(large)).size[0]
    monkeypatch.setattr(
        image_grid, "MAX_GIF_BYTES", len(image_grid.animate(noise, 2, 50, 40)) - 1
    )  # smaller than with one pixel per pixel
    smallest = Image.open(io.BytesIO(image_grid.animate(noise, 2, 50, 400)))
    assert (smallest.size, smallest.n_frames) == ((22, 10), 6)
    shown = np.asarray(smallest.convert("RGB"))[:, :10].mean((0, 1))
    np.testing.assert_allclose(shown, 255 * noise[0, 0].mean((1, 2)), atol=12)
