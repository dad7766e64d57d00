"""Toy dataset: images with one bright row each, generated as the four IDX files of MNIST; and schedules for tests."""

import os
import signal
import struct
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from datamodules.mnist import MNIST

SIDE = 8


def to_idx(array: np.ndarray) -> bytes:
    """Encode an array in the IDX format: magic number (type uint8, number of dimensions), sizes, values."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_files(folder: Path, n_train: int = 300, n_test: int = 120) -> None:
    """Write the training and test images, (N, 8, 8), and their labels: the index of the bright row."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, n in (("train", n_train), ("t10k", n_test)):
        labels = rng.integers(0, SIDE, n)
        images = rng.integers(0, 30, (n, SIDE, SIDE))
        images[np.arange(n), labels] = rng.integers(200, 256, (n, SIDE))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(to_idx(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(to_idx(labels))


class WorseAtTheEnd:
    """Learning rate schedule: maximise the bound for 60 % of the steps, then minimise it."""

    def __call__(self, progress: float) -> float:
        return 1.0 if progress < 0.6 else -1.0


WORSE_AT_THE_END = ["optimizer/schedule=constant", "optimizer.schedule._target_=toy_dataset.WorseAtTheEnd"]


class KillSecondJob:
    """Schedule that kills the process halfway through its second job, unless the file `killed` exists."""

    jobs = 0

    def __init__(self, **_: float) -> None:
        KillSecondJob.jobs += 1

    def __call__(self, progress: float) -> float:
        if KillSecondJob.jobs == 2 and progress > 0.5 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0


class WriteThreadCount:
    """Constant schedule that writes the process's number of torch threads to the file threads-<pid>."""

    def __init__(self, **_: float) -> None:
        Path(f"threads-{os.getpid()}").write_text(str(torch.get_num_threads()))

    def __call__(self, _progress: float) -> float:
        return 1.0


class Bars(MNIST):
    """MNIST with the generated files."""

    def fetch_files(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.folder}.lock"):  # of several processes, only one writes
            if not self.folder.exists():
                write_files(self.folder)
