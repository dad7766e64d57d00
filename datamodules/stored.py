"""Pixels that stay in a file and are read when they are used, for datasets that are larger than the memory."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

CPU = torch.device("cpu")
MEAN_BYTES = 2**27  # read at once to compute a mean
MAX_GAP = 8  # rows: two parts of a file that are this close are read at once


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

    def mean(self) -> Tensor:
        """Return the mean over the rows, (C, H, W)."""
        total = torch.zeros(self.shape[1:], dtype=torch.double, device=self.device)
        for pixels in self.split(max(1, MEAN_BYTES // total.nbytes)):
            total += pixels.double().sum(0)
        return (total / len(self)).float()
