"""Fashion-MNIST: 70,000 images of clothing, 28 x 28, in the file format of MNIST (Xiao et al. 2017)."""

import gzip
from functools import partial
from pathlib import Path
from typing import ClassVar

from datamodules.fetch import Source
from datamodules.mnist import IDXImages, torchvision_mirrors

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # installed by the package dataset-fashion-mnist


def debian_package(folder: Path) -> None:
    """Unpack the files of Debian's package into `folder`. Raises RuntimeError if the package is not installed."""
    if not DEBIAN.is_dir():
        raise RuntimeError("dataset-fashion-mnist is not installed (apt install dataset-fashion-mnist)")
    for name in FashionMNIST.md5:
        (folder / name).write_bytes(gzip.decompress((DEBIAN / f"{name}.gz").read_bytes()))


class FashionMNIST(IDXImages):
    """60,000 training images, `val_size` of them for validation, and 10,000 test images."""

    directory = "FashionMNIST"
    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }
    sources: ClassVar[dict[str, Source]] = {
        "Debian's package": debian_package,
        "torchvision's mirrors": partial(torchvision_mirrors, "FashionMNIST"),
    }
