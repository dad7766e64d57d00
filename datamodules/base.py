"""Images in memory: one uint8 tensor for each split, on the training device, and batches that are slices of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from vae.errors import UserError

EVAL_BATCH = 500  # images at a time where nothing is learned
AT_ONCE = 10  # batches drawn together, and handed out together to be trained on one after the other
AT_ONCE_ON_GPU = 100  # which takes a step in a hundredth of the time that Lightning takes around them
PIXELS_ON_GPU = 2**25  # at most so many numbers at once


class Images(NamedTuple):
    """pixels (N, C, H, W), uint8, or bool if made binary; labels (N,) and names, or None where there are none."""

    pixels: Tensor
    labels: Tensor | None = None
    names: Sequence[str] | None = None

    def at(self, rows: Tensor) -> "Images":
        """The images of these rows."""
        labels = None if self.labels is None else self.labels[rows]
        return Images(self.pixels[rows], labels, self.names and [self.names[i] for i in rows.tolist()])


def at_once(batch: int, on_gpu: bool) -> int:
    """How many batches to draw together, of so many numbers each."""
    return max(1, min(AT_ONCE_ON_GPU, PIXELS_ON_GPU // batch)) if on_gpu else AT_ONCE


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size that is one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def draw(pixels: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.bool) -> Tensor:
    """Each pixel is 1 with probability pixel/255, else 0; same shape (Salakhutdinov & Murray 2008).

    Sixteen random bits are compared with the pixel. 0 is never 1 and 255 always; the probability of every other value
    is right to 2^-16.
    """
    words = torch.empty(-(-pixels.numel() // 4), dtype=torch.int64, device=pixels.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: pixels.numel()].view_as(pixels)
    levels = pixels.short().mul_(257).sub_(2**15)  # which wraps 0..255 to -2^15..2^15-1
    return torch.lt(bits.clamp_(max=2**15 - 2), levels, out=torch.empty_like(pixels, dtype=dtype))


def threshold(pixels: Tensor, _generator: torch.Generator) -> Tensor:
    """True where a pixel is above 127; bool."""
    return pixels > 127


def keep(pixels: Tensor, _generator: torch.Generator) -> Tensor:
    """The grey levels themselves."""
    return pixels


def unit(pixels: Tensor) -> Tensor:
    """Pixels of any type as the floats they stand for, in [0, 1]; what is float stays what it is."""
    return pixels.float().div_(255) if pixels.dtype is torch.uint8 else pixels.float()


Binarize = Callable[[Tensor, torch.Generator], Tensor]  # of pixels (N, C, H, W)

# dataset.binarize: to every batch that is trained on; to all training images, once; to all others, once.
BINARIZE: dict[str, tuple[Binarize, Binarize, Binarize]] = {
    "dynamic": (partial(draw, dtype=torch.float), keep, draw),
    "static": (keep, draw, draw),
    "threshold": (keep, threshold, threshold),
    "none": (keep, keep, keep),
}


class RNGPurpose(IntEnum):
    """What random numbers are for: those of one use have nothing to do with those of another."""

    SPLIT = 1
    ONCE = 2
    EPOCH = 3
    RANK = 4


def generator(device: torch.device, stream: RNGPurpose, *seed: int) -> torch.Generator:
    """Random numbers that depend on their use and these seeds, and on nothing else."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence([stream, *seed]).generate_state(1)[0]))


class Batches:
    """The float images in [0, 1], (B, C, H, W), of one pass over pixels (N, C, H, W)."""

    def __init__(self, pixels: Tensor, batch_size: int) -> None:
        self.pixels, self.batch_size = pixels, batch_size

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return map(unit, self.pixels.split(self.batch_size))


class Epoch:
    """Pixels in a new order, and with new noise where `per_batch_transform` draws it, some batches at a time.

    Order and noise are a function of `seed` and `epoch()` alone. An epoch that was cut off goes on with the batches it
    had come to, through the two methods Lightning looks for.
    """

    def __init__(
        self, pixels: Tensor, batch_size: int, per_batch_transform: Binarize, seed: int, epoch: Callable[[], int]
    ) -> None:
        self.pixels, self.batch_size = pixels, batch_size
        self.per_batch_transform, self.seed, self.epoch = per_batch_transform, seed, epoch
        self.at_once = batch_size * at_once(batch_size * pixels[0].numel(), pixels.is_cuda)  # images
        self.taken = 0

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.at_once)

    def __iter__(self) -> Iterator[Batches]:
        first, self.taken = self.taken % len(self), 0
        rng = generator(self.pixels.device, RNGPurpose.EPOCH, self.seed, self.epoch())
        order = torch.randperm(len(self.pixels), generator=rng, device=self.pixels.device)
        for rows in order.split(self.at_once):
            batches = Batches(self.per_batch_transform(self.pixels.index_select(0, rows), rng), self.batch_size)
            self.taken += 1
            if self.taken > first:
                yield batches

    def state_dict(self) -> dict[str, int]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.taken = state["taken"]


@dataclass(eq=False)
class ImageDataModule(LightningDataModule, ABC):
    """What every dataset shares. A dataset says how to get its files (`fetch_files`) and what is in them (`load`).

    `seed` orders the batches of training; `split_seed` splits off the validation images and draws, once, the
    binary images of validation and test, so that runs of any seed are measured on the same ones. Sizes of splits are
    numbers of images or, below 1, parts of them.
    """

    data_dir: str
    batch_size: int
    seed: int
    val_size: float
    split_seed: int
    binarize: str

    def __post_init__(self) -> None:
        super().__init__()
        self.images: dict[str, Images] = {}

    def prepare_data(self) -> None:
        if not self.images:  # Lightning asks again at every stage
            self.fetch_files()

    def fetch_files(self) -> None:
        """Make sure that the files are there and whole; UserError says why not. Here, there are none."""

    @abstractmethod
    def load(self) -> dict[str, Images]:
        """The images of "train", "val" and "test"."""

    def augment(self, pixels: Tensor, _rng: torch.Generator) -> Tensor:
        """What training images are turned into at each use, before they are binarised; here, nothing else."""
        return pixels

    def split_off(
        self, images: Images, test_size: float = 0, groups: Tensor | None = None, in_order: bool = False
    ) -> dict[str, Images]:
        """Split images off for validation, and for the test if it has a size: at random, or in_order from the end.

        With `groups`, (N,), the sizes count groups, and no group is in two splits. Raises UserError if none is left.
        """
        everyone = torch.arange(len(images.pixels)) if groups is None else groups
        unique, group = everyone.unique(return_inverse=True)
        n = len(unique)
        val, test = (int(size) if size >= 1 else round(size * n) for size in (self.val_size, test_size))
        if not (0 < val < n - test and (test > 1 or not test_size)):
            sizes = f"dataset.val_size={self.val_size}" + (f" and dataset.test_size={test_size}" if test_size else "")
            most = f"1 to {n - 1} images" if not test_size else f"1 or more and 2 or more, {n - 1} at most together"
            raise UserError(f"{sizes}: expected {most}, of {n}")
        rng = generator(torch.device("cpu"), RNGPurpose.SPLIT, self.split_seed)
        order = torch.arange(n).flip(0) if in_order else torch.randperm(n, generator=rng)
        drawn = order.argsort()[group]  # as which each image's group was drawn
        rows = drawn.argsort(stable=True)
        ends = torch.searchsorted(drawn[rows], torch.tensor([test, test + val]))
        tested, validated, trained = (images.at(part) for part in rows.tensor_split(ends))
        return {"train": trained, "val": validated} | ({"test": tested} if test else {})

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - all splits are loaded at once
        if self.images:
            return
        _, training, others = BINARIZE[self.binarize]
        for i, (split, images) in enumerate(self.load().items()):
            once = training if split == "train" else others
            rng = generator(torch.device("cpu"), RNGPurpose.ONCE, self.split_seed, i)
            self.images[split] = images._replace(pixels=once(images.pixels, rng))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images["train"].pixels.shape[1:]
        return channels, height, width

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.images["train"].pixels) // self.batch_size)

    def x(self, split: str, rows: slice | Tensor = slice(None)) -> Tensor:
        """Images of a split as the model is fed them, but not mirrored or moved: float in [0, 1], (N, C, H, W)."""
        pixels = self.images[split].pixels[rows]
        if split == "train":
            rng = generator(pixels.device, RNGPurpose.ONCE, self.split_seed)
            pixels = BINARIZE[self.binarize][0](pixels, rng)
        return unit(pixels)

    def mean_image(self) -> Tensor:
        """The mean of the training images, (C, H, W), float in [0, 1]."""
        pixels = self.images["train"].pixels
        return pixels.float().mean(0) / (1 if pixels.dtype is torch.bool else 255)

    def on_device(self, split: str) -> Tensor:
        assert self.trainer is not None
        return self.images[split].pixels.to(self.trainer.strategy.root_device)

    def train_dataloader(self) -> Epoch:
        trainer: Any = self.trainer
        return Epoch(
            self.on_device("train"),
            self.batch_size,
            lambda pixels, rng: BINARIZE[self.binarize][0](self.augment(pixels, rng), rng),
            self.seed,
            lambda: trainer.current_epoch,
        )

    def val_dataloader(self) -> Batches:
        return Batches(self.on_device("val"), EVAL_BATCH)

    def test_dataloader(self) -> Batches:
        return Batches(self.on_device("test"), EVAL_BATCH)
