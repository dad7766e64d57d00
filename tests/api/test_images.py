"""Images selected by name, by number and by file."""

import numpy as np
import pytest
import torch
from fakes import Four, Named, load_data
from PIL import Image
from toy_dataset import Bars

from datamodules.image_files import decode_image
from vae.api.images import random_pairs, resolve_image
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


class Shiny(Named):
    """Each name is that of two training images, as with dataset.shiny=true."""

    def load(self):
        parts = super().load()
        return parts | {
            "train": parts["train"]._replace(names=[f"sprite-{i // 2}" for i in range(len(parts["train"].pixels))])
        }


def test_the_images_of_a_random_pair_differ_in_their_names():
    data = load_data(Shiny)
    n = len(data.images["train"].pixels) // 2
    for seed in range(20):
        torch.manual_seed(seed)
        pairs = random_pairs(data, "train", n - 1)
        assert len(pairs.x.flatten(1).unique(dim=0)) == 2 * (n - 1)
        names = list(zip(pairs.names[::2], pairs.names[1::2], strict=True))
        assert sum(first == second for first, second in names[:-1]) == 0
    with pytest.raises(UserError, match=f"n={n + 1}: expected {n} or fewer; each uses 2 of"):
        random_pairs(data, "train", n + 1)


def test_images_of_one_name_are_paired_with_each_other():
    data = load_data(Named)
    data.images["train"] = data.images["train"]._replace(names=["same"] * len(data.images["train"].pixels))
    assert random_pairs(data, "train", 3).names == ["same"] * 6
