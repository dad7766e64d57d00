"""Pictures as an array, as PIL images and in a notebook; arrays of every layout as images."""

import io

import numpy as np
import pytest
import torch
from fakes import Named, load_data
from PIL import Image
from toy_dataset import Bars

from vae.api.images import array_pixels, as_images
from vae.api.pictures import Pictures


def test_pictures_are_an_array_and_pil_images():
    colour = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    pictures = Pictures(colour)
    np.testing.assert_array_equal(pictures.array, colour.permute(0, 2, 3, 1))
    np.testing.assert_array_equal(np.asarray(pictures), pictures.array)
    assert np.asarray(pictures, float).dtype == float
    for picture, values in zip(pictures, colour, strict=True):
        np.testing.assert_allclose(np.asarray(picture) / 255, values.permute(1, 2, 0), atol=0.5 / 255 + 1e-6)
    grey = Pictures(colour[:, :1])
    assert grey.array.shape == (5, 4, 6)
    assert (grey[-1].mode, grey[-1].size) == ("L", (6, 4))
    assert len(grey[1:3]) == 2
    np.testing.assert_array_equal(grey[1:3].array, grey.array[1:3])
    with pytest.raises(IndexError):
        pictures[5]


def test_a_notebook_shows_a_grid():
    pictures = Pictures(torch.rand(12, 1, 4, 6))
    shown = Image.open(io.BytesIO(pictures._repr_png_()))
    assert shown.size == pictures.grid().size
    width, height = pictures.grid(columns=12).size
    assert width / height == pytest.approx((12 * 8 + 2) / (6 + 2), rel=0.01)  # 2 pixels between the pictures
    assert "12" in repr(pictures)
    assert pictures[:0]._repr_png_() is None


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "CHW", "HWC"])
@pytest.mark.parametrize("kind", ["uint8", "float", "tensor", "pictures", "list"])
def test_colour_arrays_of_every_layout(layout, kind):
    data = load_data(Named)
    expected = data.images["test"].pixels[:2] if "N" in layout else data.images["test"].pixels[:1]
    found = expected.permute(0, 2, 3, 1) if layout.endswith("C") else expected
    found = found if "N" in layout else found[0]
    given = {
        "uint8": lambda: found.numpy(),
        "float": lambda: (found / 255).double().numpy(),
        "tensor": lambda: found.float() / 255,
        "pictures": lambda: Pictures(expected / 255),
        "list": lambda: (found / 255).tolist(),
    }[kind]()
    torch.testing.assert_close(as_images(data, given).x, expected / 255)


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 1, 8, 8), (2, 8, 8, 1)])
def test_grey_arrays_of_every_layout(shape, tmp_path):
    data = Bars(str(tmp_path), 20, 0, 60, 0, "dynamic")
    data.prepare_data()
    data.setup()
    pixels = torch.randint(2, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte() * 255
    assert torch.equal(array_pixels(data, pixels.reshape(shape)), pixels)
    assert torch.equal(array_pixels(data, pixels.reshape(shape) > 0), pixels)
    assert torch.equal(as_images(data, pixels.reshape(shape).numpy()).x, pixels / 255)  # black and white stay
    grey = np.full((50, 8, 8), 0.3)
    binary = as_images(data, grey).x
    assert set(binary.unique().tolist()) == {0, 1}
    assert binary.mean() == pytest.approx(0.3, abs=0.03)


def test_names_numbers_files_and_pil_images(tmp_path):
    data = load_data(Named)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8))
    picture.save(tmp_path / "mine.png")
    x, names, _ = as_images(data, ["Mew", 2, np.int64(3), tmp_path / "mine.png", picture])
    assert names == ["Mew", "Mew", "mewtwo", "mine", "image"]
    torch.testing.assert_close(x[:3], data.x("test", torch.tensor([2, 2, 3])))
    for row in (3, 4):
        np.testing.assert_allclose(x[row].permute(1, 2, 0), np.asarray(picture) / 255, atol=1e-6)
    torch.testing.assert_close(as_images(data, "mew").x, x[:1])
