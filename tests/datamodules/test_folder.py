"""A folder of images, from generated files in several formats."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_helpers import DEFAULTS, prepare, split_sizes
from PIL import Image

from datamodules.folder import Folder
from vae.errors import UserError

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


@pytest.fixture
def images_dir(tmp_path):
    """Return a folder of ten red and ten blue images, in two subfolders, of several formats and sizes."""
    for colour, rgb in COLOURS.items():
        (tmp_path / "mine" / colour).mkdir(parents=True)
        for i, ending in enumerate(["png", "jpg", "bmp", "gif", "webp"] * 2):
            Image.new("RGB", (30 + i, 20), rgb).save(tmp_path / "mine" / colour / f"{i}.{ending}")
    return tmp_path / "mine"


def make_folder(path, tmp_path, **changes):
    options = {"path": str(path), "size": 8, "colour": "rgb", "val_size": 0.1, "test_size": 0.1}
    return Folder(data_dir=str(tmp_path / "data"), **(DEFAULTS | options | changes))


def test_images_get_labels_and_names_from_their_paths(images_dir, tmp_path):
    data = prepare(make_folder(images_dir, tmp_path, size=[6, 10]))
    assert data.shape == (3, 6, 10)
    assert split_sizes(data) == {"train": 16, "val": 2, "test": 2}
    for images in data.images.values():
        for pixels, label, name in zip(images.pixels, images.labels, images.names, strict=True):
            colour = Path(name).parts[0]
            assert label == ["blue", "red"].index(colour)
            expected = torch.tensor(COLOURS[colour]).view(3, 1, 1).expand(3, 6, 10)
            torch.testing.assert_close(pixels.int(), expected.int(), atol=12, rtol=0)  # JPEG


def test_labels_have_the_names_of_the_folders_in_natural_order(tmp_path):
    names = ["1", "2", "10", "a2", "a10", "b"]
    for i, name in enumerate(names):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for copy in range(4):
            Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(tmp_path / "mine" / name / f"{copy}.png")
    data = prepare(make_folder(tmp_path / "mine", tmp_path))
    for images in data.images.values():
        assert images.classes == names
        for pixels, label in zip(images.pixels, images.labels, strict=True):
            assert pixels.unique().tolist() == [10 * label]
    assert data.images["train"].find_label(10) == 2
    assert data.images["train"].find_label("10") == 2
    assert data.images["train"].find_label(3) is None


def test_images_are_centre_cropped_and_rotated_upright(tmp_path):
    """Half of a wide image is kept: four quarters of different grey. One file is rotated, with an EXIF orientation."""
    (tmp_path / "mine").mkdir()
    wide = np.full((8, 16), 10, np.uint8)
    wide[:4, 4:8], wide[:4, 8:12], wide[4:, 4:8], wide[4:, 8:12] = 50, 100, 150, 200
    for i in range(4):
        Image.fromarray(wide).save(tmp_path / "mine" / f"{i}.PNG")
    rotated = Image.fromarray(wide).transpose(Image.Transpose.ROTATE_90)
    orientation = Image.Exif()
    orientation[0x0112] = 6  # rotate by 90 degrees clockwise to display
    rotated.save(tmp_path / "mine" / "rotated.PNG", exif=orientation)
    data = prepare(make_folder(tmp_path / "mine", tmp_path, colour="grey", val_size=1, test_size=2))
    assert sum(len(images.pixels) for images in data.images.values()) == 5
    for images in data.images.values():
        for pixels in images.pixels:
            assert pixels[0, 1::4, 1::4].tolist() == [[50, 100], [150, 200]]


def test_subfolders_may_be_links_even_circular_ones(images_dir, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "warm").symlink_to(images_dir / "red")
    (tmp_path / "links" / "circular").symlink_to(tmp_path / "links")
    data = prepare(make_folder(tmp_path / "links", tmp_path, val_size=2, test_size=2))
    assert sum(len(images.pixels) for images in data.images.values()) == 10


@pytest.mark.parametrize(
    "hidden", [".git/a.png", ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/red/._0.png", "red/._0.png"]
)
def test_hidden_files_and_folders_are_no_data(hidden, images_dir, tmp_path):
    (images_dir / hidden).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(images_dir / hidden)
    (images_dir / ".DS_Store").write_bytes(b"no image")
    (images_dir / "Thumbs.db").write_bytes(b"no image")
    data = prepare(make_folder(images_dir, tmp_path))
    assert split_sizes(data) == {"train": 16, "val": 2, "test": 2}
    assert data.images["train"].labels.max() == 1


def test_control_characters_in_names_are_replaced(images_dir, tmp_path):
    """A line break would end a line of the log, and an escape could command the terminal."""
    (images_dir / "red" / "0.png").rename(images_dir / "red" / "a\nb\x1b[2J.png")
    data = prepare(make_folder(images_dir, tmp_path))
    names = [name for images in data.images.values() for name in images.names]
    assert "red/a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[2J.png" in names


def test_reading_the_cache_writes_nothing(images_dir, tmp_path, monkeypatch):
    prepare(make_folder(images_dir, tmp_path))
    monkeypatch.setattr("datamodules.folder.FileLock", lambda _path: pytest.fail("a lock file was written"))
    prepare(make_folder(images_dir, tmp_path))


def test_a_data_dir_that_is_not_writable_is_reported_in_one_line(images_dir, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match=r"^data_dir: cannot write to .*data/folder: [^\n]*$"):
        make_folder(images_dir, tmp_path).prepare_data()


def test_loaded_images_are_not_read_again(images_dir, tmp_path):
    data = prepare(make_folder(images_dir, tmp_path))
    images_dir.rename(tmp_path / "moved")
    prepare(data)


def test_images_of_every_mode_are_converted_to_grey(tmp_path):
    (tmp_path / "mine").mkdir()
    rgba = Image.new("RGBA", (8, 8), (200, 200, 200, 0))  # transparent: white
    modes = {
        "rgba": (rgba, 255),
        "deep": (Image.fromarray(np.full((8, 8), 100 * 256 + 255, np.uint16)), 100),
        "palette": (Image.new("RGB", (8, 8), (50, 50, 50)).quantize(4), 50),
        "one_pixel": (Image.new("L", (1, 1), 66), 66),
        "black_and_white": (Image.new("1", (8, 8), 1), 255),
        "grey": (Image.new("L", (8, 8), 77), 77),
    }
    for name, (picture, _) in modes.items():
        picture.save(tmp_path / "mine" / f"{name}.png")
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "mine" / "cmyk.tif")
    (tmp_path / "mine" / "deep_map.pgm").write_bytes(b"P5 8 8 65535\n" + bytes([90, 200]) * 64)
    modes |= {"cmyk": (None, 0), "deep_map": (None, 90)}
    data = prepare(make_folder(tmp_path / "mine", tmp_path, colour="grey", val_size=1, test_size=2))
    assert sum(len(images.pixels) for images in data.images.values()) == len(modes)
    for images in data.images.values():
        assert images.labels is None
        for pixels, name in zip(images.pixels, images.names, strict=True):
            assert (pixels == modes[Path(name).stem][1]).all(), name


def test_unreadable_files_are_skipped_with_a_warning(images_dir, tmp_path, caplog):
    whole = (images_dir / "red" / "0.png").read_bytes()
    (images_dir / "red" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images_dir / "broken.jpg").write_bytes(b"no image")
    (images_dir / "notes.txt").write_text("no image")
    (images_dir / "album.png").mkdir()
    (images_dir / "gone.png").symlink_to(tmp_path / "nowhere")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(images_dir / "real.tif")
    (images_dir / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no image")
    for _ in range(2):  # decoded, then from the cache
        caplog.clear()
        data = prepare(make_folder(images_dir, tmp_path))
        assert sum(len(images.pixels) for images in data.images.values()) == 20
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 5
        for name in (
            "red/cut.png: ",
            "broken.jpg: ",
            "gone.png: ",
            "real.tif: 32 bits per pixel",
            "caf\N{REPLACEMENT CHARACTER}.png: ",
        ):
            assert any(name in line for line in warnings), name


def test_images_are_decoded_again_only_if_one_changes(images_dir, tmp_path, monkeypatch):
    calls = []
    original = Folder.write_cache
    monkeypatch.setattr(Folder, "write_cache", lambda *args: calls.append(1) or original(*args))
    prepare(make_folder(images_dir, tmp_path))
    prepare(make_folder(images_dir, tmp_path, seed=1))
    assert len(calls) == 1
    Image.new("RGB", (9, 9), "green").save(images_dir / "red" / "0.png")
    prepare(make_folder(images_dir, tmp_path))
    prepare(make_folder(images_dir, tmp_path, size=9))
    assert len(calls) == 3
    for cache in (tmp_path / "data" / "folder").glob("*.npz"):
        cache.write_bytes(cache.read_bytes()[:-50])
    prepare(make_folder(images_dir, tmp_path))
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("state", "message"),
    [(None, "does not exist"), ("empty", "contains no image"), ("damaged", "none of them can be read")],
)
def test_a_folder_without_images_is_reported_in_one_line(state, message, tmp_path):
    path = tmp_path / "mine"
    if state:
        path.mkdir()
    if state == "damaged":
        (path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=rf"^dataset.path={path}: .*{message}$"):
        make_folder(path, tmp_path).prepare_data()
