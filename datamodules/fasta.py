"""Windows of a genome in a FASTA file, as one-hot letters."""

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.base import ImageDataModule, Images
from vae.errors import UserError

LETTERS = "ACGT"  # the channels; the complement of a letter is at the other end
BLOCK = 16  # windows


def read_fasta(path: Path) -> list[str]:
    """Return the sequences in a FASTA file, which may be gzipped, in capitals. Raises UserError if it is none."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content).decode("ascii")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"dataset.path={path}: expected a FASTA file; cannot be read: {reason}") from None
    if not text.startswith(">"):
        raise UserError(f"dataset.path={path}: expected a FASTA file, whose first line starts with >")
    records = [record.partition("\n")[2] for record in text[1:].split("\n>")]
    return ["".join(record.split()).upper() for record in records]


def windows(sequence: str, length: int, stride: int) -> Tensor:
    """Return the windows of a sequence of A, C, G and T as one-hot letters, (N, 4, 1, length), bool."""
    codes = np.searchsorted(np.frombuffer(LETTERS.encode(), np.uint8), np.frombuffer(sequence.encode(), np.uint8))
    found = np.lib.stride_tricks.sliding_window_view(codes, length)[::stride]
    return F.one_hot(torch.from_numpy(found.copy()), len(LETTERS)).bool().mT.unsqueeze(2)


@dataclass(eq=False)
class Fasta(ImageDataModule):
    """Windows of `length` letters, every `stride` letters for training, and side by side for validation and the test.

    The sequences are cut into blocks of BLOCK windows; other letters than A, C, G and T are left out. `val_size` and
    `test_size` count blocks, so windows of two splits do not overlap. Each time a training window is used, it is
    replaced by its reverse complement with probability 1/2 if `reverse_complement`.
    """

    test_size: float
    path: str
    length: int
    stride: int
    reverse_complement: bool

    def load(self) -> dict[str, Images]:
        sequences = [run for record in read_fasta(Path(self.path)) for run in re.findall(f"[{LETTERS}]+", record)]
        size = BLOCK * self.length
        blocks = [sequence[start : start + size] for sequence in sequences for start in range(0, len(sequence), size)]
        blocks = [block for block in blocks if len(block) >= self.length]
        if len(blocks) < 4:
            raise UserError(
                f"dataset.path={self.path}: it has {sum(map(len, sequences))} letters A, C, G, T; expected 4 blocks of "
                f"{BLOCK} windows of dataset.length={self.length}, or more"
            )
        return {
            split: Images(
                torch.cat(
                    [windows(blocks[i], self.length, self.stride if split == "train" else self.length) for i in rows]
                )
            )
            for split, rows in self.split_rows(len(blocks), self.test_size).items()
        }

    @property
    def has_pictures(self) -> bool:
        return False

    def augment(self, pixels: Tensor, rng: torch.Generator) -> Tensor:
        if not self.reverse_complement:
            return pixels
        reversed_ = torch.rand(len(pixels), 1, 1, 1, generator=rng, device=pixels.device) < 0.5
        return torch.where(reversed_, pixels.flip(-3, -1), pixels)
