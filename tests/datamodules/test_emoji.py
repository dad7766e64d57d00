"""Emoji, from a made-up package in the format of emoji-datasource-twitter."""

import json
import tarfile

import numpy as np
import pytest
import torch
from dataset_helpers import DEFAULTS, prepare, split_sizes
from PIL import Image

from datamodules import emoji
from datamodules.emoji import Emoji, on_white
from datamodules.fetch import file_checksum, npz_checksum

CATEGORIES = {"pizza": "Food & Drink", "cat": "Animals & Nature", "dog": "Animals & Nature", "+1": "People & Body"}


def make_picture(seed, side=64):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 4)).astype(np.uint8)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """Return a data folder with the archive that a user added; npm is unavailable."""
    pictures = tmp_path / "package" / "img" / "twitter" / "64"
    pictures.mkdir(parents=True)
    entries = []
    for i, (name, category) in enumerate(CATEGORIES.items()):
        Image.fromarray(make_picture(i)).save(pictures / f"{i}.png")
        Image.fromarray(make_picture(i + 10)).save(pictures / f"{i}-1f3fb.png")  # in another skin tone
        entries.append({"short_name": name, "category": category, "image": f"{i}.png", "sort_order": 9 - i})
    (tmp_path / "package" / "emoji.json").write_text(json.dumps(entries))
    (tmp_path / "data" / "emoji").mkdir(parents=True)
    archive = tmp_path / "data" / "emoji" / emoji.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    monkeypatch.setattr(emoji, "ARCHIVE_SHA256", file_checksum(archive, "sha256"))
    emoji.write_npz(tmp_path / "package", tmp_path)
    monkeypatch.setattr(emoji, "SHA256", npz_checksum(tmp_path / "emoji.npz"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "data"


def make_emoji(folder, **changes):
    return Emoji(
        data_dir=str(folder), **(DEFAULTS | {"val_size": 1, "test_size": 2, "size": 64, "flips": False} | changes)
    )


def test_pictures_are_on_white_and_have_names_and_categories(data_dir):
    data = prepare(make_emoji(data_dir))
    assert split_sizes(data) == {"train": 1, "val": 1, "test": 2}
    found = {
        name: (images.label_name(label), pixels)
        for images in data.images.values()
        for name, label, pixels in zip(images.names, images.labels.tolist(), images.pixels, strict=True)
    }
    assert {name: category for name, (category, _) in found.items()} == CATEGORIES
    for i, name in enumerate(CATEGORIES):
        rgba = make_picture(i)
        picture = Image.alpha_composite(Image.new("RGBA", (64, 64), "white"), Image.fromarray(rgba)).convert("RGB")
        np.testing.assert_allclose(found[name][1].permute(1, 2, 0), np.asarray(picture), atol=1)


def test_pictures_are_scaled_without_aliasing():
    rgba = np.full((1, 64, 64, 4), 255, np.uint8)
    rgba[:, :, ::4, :3] = 0  # one black column of four is a light grey at a quarter of the size
    quarter = on_white(rgba, (16, 16))
    assert quarter.shape == (1, 3, 16, 16)
    assert (quarter[..., 1:-1].int() - 191).abs().max() < 20


@pytest.mark.usefixtures("data_dir")
def test_flips_mirror_half_of_the_training_images(data_dir):
    pixels = torch.randint(0, 256, (400, 3, 4, 6), dtype=torch.uint8)
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(make_emoji(data_dir).augment(pixels, rng), pixels)
    out = make_emoji(data_dir, flips=True).augment(pixels, rng)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(out, pixels, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, out, pixels, strict=True))
    assert 160 < sum(mirrored) < 240
