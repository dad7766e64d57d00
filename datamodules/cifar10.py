"""CIFAR-10: 60,000 photographs of ten kinds of objects, 32 x 32, in colour (Krizhevsky 2009)."""

import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from datamodules.base import ImageDataModule, Images
from datamodules.fetch import download_files, fetch
from datamodules.pickled import load_pickle

ARCHIVE = "cifar-10-python.tar.gz"
MD5 = {ARCHIVE: "c58f30108f718f92721af3b95e74349a"}
URL = "https://www.cs.toronto.edu/~kriz/"
FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10(ImageDataModule):
    """50,000 training photographs, `val_size` of them for validation, and 10,000 test photographs."""

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "cifar10"

    def fetch_files(self) -> None:
        fetch(self.folder, MD5, {"its page": partial(download_files, URL, MD5)})

    def load(self) -> dict[str, Images]:
        splits = {}
        with tarfile.open(self.folder / ARCHIVE) as archive:
            for split, names in FILES.items():
                files = [archive.extractfile(f"cifar-10-batches-py/{name}") for name in names]
                batches = [load_pickle(file) for file in files if file is not None]
                pixels = np.concatenate([batch["data"].array() for batch in batches]).reshape(-1, 3, 32, 32)
                labels = torch.tensor([label for batch in batches for label in batch["labels"]])
                splits[split] = Images(torch.from_numpy(pixels), labels, classes=CLASSES)
        return self.split_off(splits["train"]) | {"test": splits["test"]}
