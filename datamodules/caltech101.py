"""Caltech-101 silhouettes: 8671 outlines of objects of 101 kinds, 28 x 28, from a file of Marlin et al. (2010)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from datamodules.base import ImageDataModule, Images
from vae.errors import UserError

FILE = "caltech101_silhouettes_28_split1.mat"
SIZES = {"train": 4100, "val": 2264, "test": 2307}


@dataclass(eq=False)
class Caltech101(ImageDataModule):
    """4100 training, 2264 validation and 2307 test silhouettes, white on black, from `data_dir`/caltech101."""

    val_size: float = field(init=False, default=0)

    @property
    def path(self) -> Path:
        return Path(self.data_dir) / "caltech101" / FILE

    def fetch_files(self) -> None:
        if not self.path.is_file():
            raise UserError(
                f"dataset=caltech101: expected the file of Marlin et al. (2010) as {self.path}; there is none"
            )

    def load(self) -> dict[str, Images]:
        from scipy.io import loadmat

        try:
            arrays = loadmat(self.path)
            classes = [str(name[0]) for name in arrays["classnames"][0]]
            return {split: self.read(arrays, split, n, classes) for split, n in SIZES.items()}
        except Exception as error:  # noqa: BLE001 (scipy raises many kinds of exceptions on a damaged file)
            raise UserError(f"{self.path}: not the file of Marlin et al. (2010): {error}") from None

    def read(self, arrays: dict[str, Any], split: str, n: int, classes: list[str]) -> Images:
        """Return the silhouettes of a split. Raises ValueError if their number or their values are wrong."""
        silhouettes, labels = arrays[f"{split}_data"], arrays[f"{split}_labels"]
        if silhouettes.shape != (n, 784) or silhouettes.max() > 1 or labels.shape != (n, 1) or labels.min() < 1:
            raise ValueError(f"expected {n} x 784 zeros and ones in {split}_data, with labels from 1")
        pixels = torch.from_numpy(silhouettes == 0)  # black on white in the file, and by columns
        return Images(
            pixels.view(n, 1, 28, 28).mT.contiguous(), torch.from_numpy(labels[:, 0]).long() - 1, classes=classes
        )
