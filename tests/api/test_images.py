"""Images selected by name, by number and by file."""

import numpy as np
import pytest
import torch
from fakes import Four, Named, load_data
from PIL import Image
from toy_dataset import Bars

from datamodules.image_files import decode_image
from vae.api.images import resolve_image
from vae.errors import UserError


def test_images_are_found_by_name_number_and_file(tmp_path):
    data = load_data(Named)
    for split in ("train", "val", "test"):
        for row, name in enumerate(data.images[split].names):
            found = resolve_image(data, "fuse", name.upper())
            assert found.names == [name]
            torch.testing.assert_close(found.x[0], data.images[split].pixels[row] / 255)
    torch.testing.assert_close(resolve_image(data, "fuse", 3).x[0], data.images["test"].pixels[3] / 255)
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "mine.png")
    (x,), (name,), _ = resolve_image(data, "images", str(tmp_path / "mine.png"))
    expected = decode_image(tmp_path / "mine.png", (6, 5), "RGB").transpose(2, 0, 1)
    np.testing.assert_allclose(x, expected / 255, atol=1e-6)
    assert name == "mine"


def test_duplicate_name_selects_the_test_image():
    data = load_data(Named)
    for split in ("train", "val"):
        images = data.images[split]
        data.images[split] = images._replace(names=["ditto", *images.names[1:]])
    torch.testing.assert_close(resolve_image(data, "fuse", "ditto").x[0], data.images["test"].pixels[5] / 255)


def test_image_file_is_converted_to_grey_and_binary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Bars("data", 20, 0, 60, 0, "threshold")
    data.prepare_data()
    data.setup()
    Image.fromarray(np.array([[[250, 200, 180]] * 8] * 4 + [[[20, 90, 60]] * 8] * 4, np.uint8)).save("mine.png")
    x = resolve_image(data, "images", "mine.png").x
    assert x.shape == (1, 1, 8, 8)
    assert x.flatten(1)[:, :24].eq(1).all()
    assert x.flatten(1)[:, -24:].eq(0).all()


def test_unknown_name_suggests_similar_names():
    with pytest.raises(UserError, match=r"fuse=Pikachuu: expected the name .* 0 to 7, or a file; did you mean pikachu"):
        resolve_image(load_data(Named), "fuse", "Pikachuu")
    with pytest.raises(UserError, match="did you mean mewtwo or Mew"):
        resolve_image(load_data(Named), "fuse", "mewtw")
    with pytest.raises(UserError) as error:
        resolve_image(load_data(Four), "fuse", "pikachu")
    assert "name" not in str(error.value)
