"""Caltech-101 silhouettes, from made-up files in the format of Marlin's."""

import numpy as np
import pytest
from dataset_helpers import DEFAULTS, prepare
from scipy.io import savemat

from datamodules import caltech101
from datamodules.caltech101 import Caltech101
from vae.errors import UserError

RNG = np.random.default_rng(0)
OBJECTS = {split: RNG.random((n, 28, 28)) < 0.3 for split, n in (("train", 6), ("val", 4), ("test", 3))}


@pytest.fixture
def arrays(monkeypatch):
    """Return the arrays of the file: black objects on white, each by columns, and labels from 1."""
    monkeypatch.setattr(caltech101, "SIZES", {split: len(objects) for split, objects in OBJECTS.items()})
    content = {"classnames": np.array(["anchor", "ant", "yin_yang"], object)[None]}
    for split, objects in OBJECTS.items():
        stored = np.stack([(~shape).ravel(order="F") for shape in objects])
        labels = np.arange(len(objects))[:, None] % 3 + 1
        content |= {f"{split}_data": stored.astype(np.uint8), f"{split}_labels": labels.astype(np.uint8)}
    return content


def write(folder, content):
    path = folder / "caltech101" / caltech101.FILE
    path.parent.mkdir()
    savemat(path, content)
    return path


def test_silhouettes_are_white_on_black_in_the_split_of_the_file(tmp_path, arrays):
    write(tmp_path, arrays)
    data = prepare(Caltech101(data_dir=str(tmp_path), **DEFAULTS))
    assert data.shape == (1, 28, 28)
    for split, images in data.images.items():
        np.testing.assert_array_equal(images.pixels[:, 0], OBJECTS[split])
        assert [images.label_name(label) for label in images.labels.tolist()[:3]] == ["anchor", "ant", "yin_yang"]


@pytest.mark.parametrize("damage", ["no file", "garbage", "size", "values", "missing"])
def test_another_file_is_refused_in_one_line(damage, tmp_path, arrays):
    if damage == "size":
        arrays["val_data"] = arrays["val_data"][:3]
    elif damage == "values":
        arrays["test_data"] = arrays["test_data"] * 255
    elif damage == "missing":
        del arrays["train_labels"]
    path = write(tmp_path, arrays)
    if damage == "garbage":
        path.write_bytes(b"garbage")
    elif damage == "no file":
        path.unlink()
    with pytest.raises(UserError) as error:
        prepare(Caltech101(data_dir=str(tmp_path), **DEFAULTS))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
