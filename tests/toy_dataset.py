"""Bright bars, one a picture, made on the spot as the four IDX files of MNIST."""

import os
import signal
import struct
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

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


WORSE_AT_THE_END = ["optimizer/schedule=constant", "optimizer.schedule._target_=toy_dataset.WorseAtTheEnd"]


class Kill:
    """A schedule: no process gets beyond half of its second job, unless there is a file `killed` already."""

    jobs = 0

    def __init__(self, **_: float) -> None:
        Kill.jobs += 1

    def __call__(self, done: float) -> float:
        if Kill.jobs == 2 and done > 0.5 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0


class Threads:
    """A schedule that writes down with how many threads a process works."""

    def __init__(self, **_: float) -> None:
        Path(f"threads-{os.getpid()}").write_text(str(torch.get_num_threads()))

    def __call__(self, _done: float) -> float:
        return 1.0


class Bars(MNIST):
    """MNIST with other files."""

    def fetch_files(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.folder}.lock"):  # of several processes, one writes
            if not self.folder.exists():
                write(self.folder)
