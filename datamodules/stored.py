"""Pixels that stay in a file and are read when they are used, for datasets that are larger than the memory."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CPU = torch.device("cpu")
MAX_GAP = 8  # rows: two parts of a file that are this close are read at once


class NpyFile:
    """An array in a .npy file, in C order, whose rows are read when they are taken.

    Pages of a memory map are slower: for each, the system reads several times as much of the file around it.
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.offset, self.shape, self.dtype = path, offset, shape, dtype
        self.row_bytes = prod(shape[1:]) * dtype.itemsize
        self.nbytes = len(self) * self.row_bytes
        self.file = path.open("rb")
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read rows. Raises OSError if the file has become shorter."""
        start, stop, _ = rows.indices(len(self))
        found = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self.file.seek(self.offset + start * self.row_bytes)
        if self.file.readinto(found.reshape(-1).view(np.uint8).data) != found.nbytes:
            raise OSError(f"{self.path}: the file has become shorter")
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def close(self) -> None:
        self.file.close()


def open_npy(path: Path) -> Any:
    """Open a .npy file. An array that is not in C order is memory-mapped."""
    mapped = np.load(path, mmap_mode="r")
    if not mapped.ndim or not mapped.flags.c_contiguous:
        return mapped
    return NpyFile(path, mapped.offset, mapped.shape, mapped.dtype)


def read_rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """Return rows of an array in a file, in the given order. Rows close to each other are read at once."""
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    cuts = np.flatnonzero(np.diff(ascending) > MAX_GAP) + 1
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for part, place in zip(np.split(ascending, cuts), np.split(order, cuts), strict=True):
        if len(part):
            found[place] = array[part[0] : part[-1] + 1][part - part[0]]
    return found


class StoredPixels:
    """Rows of an array in a file, for `Images.pixels`. Indexing reads them into a tensor, (N, C, H, W).

    `open_array` opens the file. It is opened for each access, so that no page of it stays in the process's memory.
    `convert` turns rows of it, as they are stored, into uint8, bool, or float in [0, 1].
    """

    def __init__(
        self,
        open_array: Callable[[], AbstractContextManager[Any]],
        convert: Callable[[np.ndarray], Tensor],
        rows: Tensor,
        device: torch.device = CPU,
    ) -> None:
        self.open_array, self.convert, self.rows, self.device = open_array, convert, rows, device
        first = self[:1]
        self.shape = torch.Size([len(rows), *first.shape[1:]])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        with self.open_array() as array:
            return self.convert(read_rows(array, self.rows[rows].numpy())).to(self.device)

    def to(self, device: torch.device) -> "StoredPixels":
        """Return the same pixels, read to another device."""
        return StoredPixels(self.open_array, self.convert, self.rows, device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield the rows in order, `size` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))
