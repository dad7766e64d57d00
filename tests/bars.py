"""Bright bars, one a picture, made on the spot as the four IDX files of MNIST."""

import struct
from pathlib import Path

import numpy as np

from datamodules.mnist import MNIST

SIDE = 8


def idx(array: np.ndarray) -> bytes:
    """The IDX format: magic number (type uint8, number of dimensions), sizes, values."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write(folder: Path, n_train: int = 300, n_test: int = 120) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, n in (("train", n_train), ("t10k", n_test)):
        labels = rng.integers(0, SIDE, n)
        images = rng.integers(0, 30, (n, SIDE, SIDE))
        images[np.arange(n), labels] = rng.integers(200, 256, (n, SIDE))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))


class WorseAtTheEnd:
    """A schedule: up the bound, then down again."""

    def __call__(self, done: float) -> float:
        return 1.0 if done < 0.6 else -1.0


class Bars(MNIST):
    """MNIST with other files."""

    def fetch_files(self) -> None:
        write(self.folder)
