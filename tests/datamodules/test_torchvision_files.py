"""The datasets whose files torchvision also reads, from made-up files in the published formats."""

import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
from functools import partial
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from dataset_helpers import DEFAULTS, prepare, split_sizes
from PIL import Image
from scipy.io import savemat
from torchvision import datasets
from torchvision.transforms import functional as transforms
from toy_dataset import to_idx

from datamodules import celeba, cifar10, omniglot, svhn
from datamodules.celeba import CelebA
from datamodules.cifar10 import CIFAR10
from datamodules.emnist import CLASSES, EMNIST
from datamodules.fetch import download_files, md5, npz_checksum, sha256
from datamodules.kmnist import KMNIST
from datamodules.omniglot import Omniglot
from datamodules.svhn import SVHN
from vae.errors import UserError

RNG = np.random.default_rng(0)


def test_the_files_are_those_of_torchvision():
    assert list(KMNIST.md5.items()) == datasets.KMNIST.resources
    assert KMNIST.sources["its page"].args[0] == datasets.KMNIST.mirrors[0]
    assert EMNIST.sources["NIST"].args[0] + "gzip.zip" == datasets.EMNIST.url
    assert EMNIST.md5 == {"gzip.zip": datasets.EMNIST.md5}
    assert {
        name: ["N/A", *classes[1:]] if name == "letters" else list(classes) for name, classes in CLASSES.items()
    } == (datasets.EMNIST.classes_split_dict)
    assert datasets.CIFAR10.tgz_md5 == cifar10.MD5
    assert datasets.CIFAR10.url == cifar10.URL
    assert cifar10.FILES["train"] == [name for name, _ in datasets.CIFAR10.train_list]
    files = [datasets.SVHN.split_list[split] for split in ("train", "test")]
    assert [(svhn.URL + name, name, checksum) for name, checksum in svhn.MD5.items()] == [tuple(file) for file in files]
    assert {name.removesuffix(".zip"): md5 for name, md5 in omniglot.MD5.items()} == datasets.Omniglot.zips_md5
    assert datasets.Omniglot.download_url_prefix + "/" == omniglot.URL
    assert {(celeba.GOOGLE_DRIVE[name], md5, name) for name, md5 in celeba.MD5.items()} <= set(
        datasets.CelebA.file_list
    )


def unreachable(*_):
    raise OSError("no network")


def images(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def by_label(split):
    """Return {label: pixels}; each image of the made-up files has a label of its own."""
    return {split.label_name(label): x for label, x in zip(split.labels.tolist(), split.pixels, strict=True)}


def test_kmnist(tmp_path, monkeypatch):
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = images(14, 28, 28)
    arrays = pixels[:10], np.arange(10), pixels[10:], np.arange(4)
    for name, array in zip(KMNIST.md5, arrays, strict=True):
        (raw / name).write_bytes(gzip.compress(to_idx(array)))
    monkeypatch.setattr(KMNIST, "md5", {name: md5(raw / name) for name in KMNIST.md5})
    data = prepare(KMNIST(data_dir=str(tmp_path), val_size=3, **DEFAULTS))
    assert split_sizes(data) == {"train": 7, "val": 3, "test": 4}
    for split in ("train", "val"):
        for name, x in by_label(data.images[split]).items():
            np.testing.assert_array_equal(x[0], pixels[datasets.KMNIST.classes.index(name)])
    np.testing.assert_array_equal(data.images["test"].pixels[:, 0], pixels[10:])


@pytest.mark.parametrize(("subset", "first"), [("letters", 1), ("balanced", 0)])
def test_emnist(subset, first, tmp_path, monkeypatch):
    (tmp_path / "EMNIST" / "raw").mkdir(parents=True)
    archive = tmp_path / "EMNIST" / "raw" / "gzip.zip"
    train, test = images(26, 28, 28), images(5, 28, 28)
    with ZipFile(archive, "w") as file:
        for part, pixels in (("train", train), ("test", test)):
            stored = pixels.transpose(0, 2, 1)  # as in the published files
            file.writestr(f"gzip/emnist-{subset}-{part}-images-idx3-ubyte.gz", gzip.compress(to_idx(stored)))
            labels = to_idx(np.arange(len(pixels)) + first)
            file.writestr(f"gzip/emnist-{subset}-{part}-labels-idx1-ubyte.gz", gzip.compress(labels))
    monkeypatch.setattr(EMNIST, "md5", {"gzip.zip": md5(archive)})
    data = prepare(EMNIST(data_dir=str(tmp_path), val_size=6, subset=subset, **DEFAULTS))
    assert split_sizes(data) == {"train": 20, "val": 6, "test": 5}
    names = "abcde" if subset == "letters" else "01234"
    for name, x, expected in zip(names, by_label(data.images["test"]).items(), test, strict=True):
        assert name == x[0]
        np.testing.assert_array_equal(x[1][0], expected)


class Python2Pickler(pickle._Pickler):
    """Pickle as Python 2 did: bytes are strings."""

    dispatch = pickle._Pickler.dispatch | {
        bytes: lambda self, content: self.write(b"T" + struct.pack("<I", len(content)) + content)
    }


def write_cifar10(path, batches):
    with tarfile.open(path, "w:gz") as archive:
        for name, (pixels, labels) in batches.items():
            content = io.BytesIO()
            batch = {"batch_label": name, "labels": labels, "data": pixels.reshape(-1, 3072)}
            Python2Pickler(content, 2).dump(batch)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)


@pytest.fixture
def cifar10_batches(tmp_path, monkeypatch):
    """{name: (pixels, labels)} of made-up batches, whose checksum is the expected one; npm is unavailable."""
    (tmp_path / "cifar10").mkdir()
    names = [*cifar10.FILES["train"], *cifar10.FILES["test"]]
    batches = {name: (images(2, 3, 32, 32), [2 * i % 10, 2 * i % 10 + 1]) for i, name in enumerate(names)}
    splits = {}
    for split, parts in cifar10.FILES.items():
        pixels, labels = zip(*(batches[name] for name in parts), strict=True)
        splits[split] = np.concatenate(pixels), np.concatenate(labels)
    cifar10.write_npz(splits, tmp_path)
    monkeypatch.setattr(cifar10, "SHA256", npz_checksum(tmp_path / "cifar10.npz"))
    monkeypatch.setattr(cifar10, "download", unreachable)
    monkeypatch.setenv("PATH", str(tmp_path))
    return batches


def add_cifar10_archive(tmp_path, batches, monkeypatch):
    """Write the archive of the website where a user would put it."""
    archive = tmp_path / "cifar10" / cifar10.ARCHIVE
    write_cifar10(archive, batches)
    monkeypatch.setattr(cifar10, "MD5", md5(archive))


def add_cifar10_package(tmp_path, batches, monkeypatch):
    """Write the archive of the npm package where a user would put it: in a PNG file, each row is an image."""
    package = tmp_path / "package"
    package.mkdir()
    for name, (pixels, _) in batches.items():
        Image.fromarray(pixels.transpose(0, 2, 3, 1).reshape(-1, 1024, 3)).save(package / f"{name}.png")
    for split, names in cifar10.FILES.items():
        labels = [label for name in names for label in batches[name][1]]
        (package / f"{split}_lables.json").write_text(json.dumps(labels))
    archive = tmp_path / "cifar10" / cifar10.PACKAGE_ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(package, "package")
    monkeypatch.setattr(cifar10, "PACKAGE_SHA256", sha256(archive))


def serve_cifar10_archive(tmp_path, batches, monkeypatch):
    """Put the archive on a website; a damaged one is where a user would put it."""
    write_cifar10(tmp_path / "served.tar.gz", batches)
    monkeypatch.setattr(cifar10, "MD5", md5(tmp_path / "served.tar.gz"))
    monkeypatch.setattr(cifar10, "download", lambda _url, path: shutil.copy(tmp_path / "served.tar.gz", path))
    (tmp_path / "cifar10" / cifar10.ARCHIVE).write_text("damaged")


@pytest.mark.parametrize("add", [add_cifar10_archive, add_cifar10_package, serve_cifar10_archive])
def test_cifar10(add, tmp_path, cifar10_batches, monkeypatch):
    add(tmp_path, cifar10_batches, monkeypatch)
    data = prepare(CIFAR10(data_dir=str(tmp_path), val_size=3, **DEFAULTS))
    assert split_sizes(data) == {"train": 7, "val": 3, "test": 2}
    found = by_label(data.images["train"]) | by_label(data.images["val"])
    for i, label in enumerate(cifar10.CLASSES):
        pixels, _ = cifar10_batches[f"data_batch_{i // 2 + 1}"]
        np.testing.assert_array_equal(found[label], pixels[i % 2])
    np.testing.assert_array_equal(data.images["test"].pixels, cifar10_batches["test_batch"][0])
    assert data.images["test"].labels.tolist() == cifar10_batches["test_batch"][1]
    damaged = tmp_path / "cifar10" / f"{cifar10.ARCHIVE}.damaged"
    assert damaged.exists() == (add is serve_cifar10_archive)


def test_a_website_that_serves_another_file_is_not_used(tmp_path, cifar10_batches, monkeypatch):
    serve_cifar10_archive(tmp_path, cifar10_batches, monkeypatch)
    monkeypatch.setattr(cifar10, "MD5", "0" * 32)
    with pytest.raises(UserError, match=r"npm is not on the PATH\n.*its page: cifar-10-python.tar.gz: wrong checksum"):
        prepare(CIFAR10(data_dir=str(tmp_path), val_size=3, **DEFAULTS))


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_of_cifar10_cannot_run_code(tmp_path, cifar10_batches, monkeypatch, capsys):
    pixels, _ = cifar10_batches["data_batch_1"]
    add_cifar10_archive(tmp_path, cifar10_batches | {"data_batch_1": (pixels, [Malicious()])}, monkeypatch)
    with pytest.raises(UserError, match="print is forbidden"):
        prepare(CIFAR10(data_dir=str(tmp_path), val_size=3, **DEFAULTS))
    assert "executed" not in capsys.readouterr().out


def test_svhn(tmp_path, monkeypatch):
    (tmp_path / "svhn").mkdir()
    pixels = images(14, 3, 32, 32)
    labels = np.array([*range(1, 11), 10, 1, 2, 3], np.uint8)[:, None]  # 10 is the digit 0
    for name, rows in (("train_32x32.mat", slice(10)), ("test_32x32.mat", slice(10, 14))):
        savemat(tmp_path / "svhn" / name, {"X": pixels[rows].transpose(2, 3, 1, 0), "y": labels[rows]})
    monkeypatch.setattr(svhn, "MD5", {name: md5(tmp_path / "svhn" / name) for name in svhn.MD5})
    data = prepare(SVHN(data_dir=str(tmp_path), val_size=3, **DEFAULTS))
    assert split_sizes(data) == {"train": 7, "val": 3, "test": 4}
    found = by_label(data.images["train"]) | by_label(data.images["val"])
    for i in range(10):
        np.testing.assert_array_equal(found[str((i + 1) % 10)], pixels[i])
    assert data.images["test"].labels.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(data.images["test"].pixels, pixels[10:])


def png(strokes):
    file = io.BytesIO()
    Image.fromarray(~strokes).save(file, "PNG")  # black on white, 1 bit per pixel
    return file.getvalue()


def test_omniglot(tmp_path, monkeypatch):
    (tmp_path / "omniglot").mkdir()
    strokes = {
        f"{archive}/{alphabet}/character{n:02}/{i:04}_01.png": RNG.random((105, 105)) < 0.3
        for archive, alphabets in (("images_background", "AB"), ("images_evaluation", "C"))
        for alphabet in alphabets
        for n in (1, 2)
        for i in range(2)
    }
    for name in omniglot.MD5:
        with ZipFile(tmp_path / "omniglot" / name, "w") as file:
            for path, drawing in strokes.items():
                if path.startswith(name.removesuffix(".zip")):
                    file.writestr(path, png(drawing))
    monkeypatch.setattr(omniglot, "MD5", {name: md5(tmp_path / "omniglot" / name) for name in omniglot.MD5})
    data = prepare(Omniglot(data_dir=str(tmp_path), val_size=2, **DEFAULTS))
    assert data.shape == (1, 28, 28)
    assert split_sizes(data) == {"train": 6, "val": 2, "test": 4}
    test = data.images["test"]
    names = [test.label_name(label) for label in test.labels.tolist()]
    assert names == ["C/character01"] * 2 + ["C/character02"] * 2
    drawings = [drawing for path, drawing in strokes.items() if path.startswith("images_evaluation")]
    area = np.eye(105).repeat(28, 0).reshape(28, 105, 105).mean(1)  # of each pixel in each of 28 cells
    for x, drawing in zip(test.pixels[:, 0].numpy(), drawings, strict=True):
        np.testing.assert_allclose(x, area @ (255 * drawing) @ area.T, atol=1)


@pytest.fixture
def celeba_files(tmp_path, monkeypatch):
    """Write five photographs and their splits; return the photographs."""
    (tmp_path / "celeba").mkdir()
    names = [f"{i:06}.jpg" for i in range(1, 6)]
    photographs = []
    with ZipFile(tmp_path / "celeba" / celeba.ARCHIVE, "w") as archive:
        for name in names:
            file = io.BytesIO()
            Image.fromarray(images(218, 178, 3)).resize((178, 218)).save(file, "JPEG")
            archive.writestr(f"img_align_celeba/{name}", file.getvalue())
            photographs.append(Image.open(file))
    lines = [f"{name} {split}\n" for name, split in zip(names, (0, 2, 0, 1, 2), strict=True)]
    (tmp_path / "celeba" / celeba.PARTITION).write_text("".join(lines))
    monkeypatch.setattr(celeba, "MD5", {name: md5(tmp_path / "celeba" / name) for name in celeba.MD5})
    return photographs


def test_celeba(tmp_path, celeba_files):
    data = prepare(CelebA(data_dir=str(tmp_path), **DEFAULTS))
    for split, rows in {"train": [0, 2], "val": [3], "test": [1, 4]}.items():
        for x, row in zip(data.images[split].pixels, rows, strict=True):
            cropped = transforms.center_crop(celeba_files[row], 148)
            expected = transforms.pil_to_tensor(transforms.resize(cropped, 64))
            torch.testing.assert_close(x, expected, rtol=0, atol=0)
    (tmp_path / "celeba" / celeba.ARCHIVE).unlink()
    prepare(CelebA(data_dir=str(tmp_path), **DEFAULTS))  # from faces.npy


@pytest.mark.usefixtures("celeba_files")
def test_the_files_of_celeba_to_add_are_listed(tmp_path):
    (tmp_path / "celeba" / celeba.ARCHIVE).unlink()
    with pytest.raises(UserError) as error:
        CelebA(data_dir=str(tmp_path), **DEFAULTS).prepare_data()
    assert "Google Drive: " in str(error.value)
    assert f"{tmp_path / 'celeba' / celeba.ARCHIVE}  (md5 " in str(error.value)


def test_a_download_is_verified(tmp_path, monkeypatch):
    (tmp_path / "page").mkdir()
    for name in KMNIST.md5:
        (tmp_path / "page" / name).write_bytes(gzip.compress(to_idx(images(3, 28, 28))))
    source = partial(download_files, (tmp_path / "page").as_uri() + "/", KMNIST.md5)
    monkeypatch.setattr(KMNIST, "sources", {"its page": source})
    with pytest.raises(UserError, match=r"its page: .*wrong checksum"):
        KMNIST(data_dir=str(tmp_path), val_size=1, **DEFAULTS).prepare_data()
