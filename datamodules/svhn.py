"""SVHN: 99,289 house numbers from Street View, 32 x 32, in colour, each around one digit (Netzer et al. 2011)."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from datamodules.base import ImageDataModule, Images
from datamodules.fetch import download_files, fetch

MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
URL = "http://ufldl.stanford.edu/housenumbers/"


class SVHN(ImageDataModule):
    """73,257 training images, `val_size` of them for validation, and 26,032 test images; not the 531,131 extra ones."""

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "svhn"

    def fetch_files(self) -> None:
        fetch(self.folder, MD5, {"its page": partial(download_files, URL, MD5)})

    def load(self) -> dict[str, Images]:
        from scipy.io import loadmat

        def read(name: str) -> Images:
            arrays = loadmat(self.folder / name)
            pixels = torch.from_numpy(np.ascontiguousarray(arrays["X"].transpose(3, 2, 0, 1)))
            return Images(pixels, torch.from_numpy(arrays["y"][:, 0] % 10).long())  # the label of 0 is 10

        train, test = map(read, MD5)
        return self.split_off(train) | {"test": test}
