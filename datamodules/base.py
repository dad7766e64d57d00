"""Base class of the datasets. Each split is one uint8 tensor on the training device; batches are slices of it."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datamodules.stored import StoredPixels
from vae.errors import UserError

EVAL_BATCH = 500  # batch size of validation and test
BATCHES_PER_CHUNK = 10  # batches that are binarised together and passed to one training_step
BATCHES_PER_CHUNK_ON_GPU = 100  # a GPU takes a step in a hundredth of the time of Lightning's overhead per call
MAX_CHUNK_PIXELS_ON_GPU = 2**25  # limits the memory of a chunk
BLOCK_BYTES = 2**20  # consecutive images of a file that stay together when its order is shuffled
BUFFER_BYTES = 2**27  # images of a file that are shuffled together


class Images(NamedTuple):
    """pixels: (N, C, H, W), uint8, bool, or float in [0, 1]; labels: (N,) or None; names: N strings or None.

    `classes` are the names of the labels: label i is called classes[i]. Without it, labels are numbers.
    """

    pixels: Tensor | StoredPixels
    labels: Tensor | None = None
    names: Sequence[str] | None = None
    classes: Sequence[str] | None = None

    def label_name(self, label: int) -> str:
        """Return the name of a label, or its number."""
        return self.classes[label] if self.classes else str(label)

    def find_label(self, identifier: str | int) -> int | None:
        """Return the label with this name or, if labels are numbers, this number; None if there is none."""
        if self.labels is None:
            return None
        found = {self.label_name(label): label for label in self.labels.unique().tolist()}
        return found.get(str(identifier))

    def select(self, rows: Tensor) -> "Images":
        """Return the images with these indices."""
        labels = None if self.labels is None else self.labels[rows]
        names = self.names and [self.names[i] for i in rows.tolist()]
        return self._replace(pixels=self.pixels[rows], labels=labels, names=names)


def number_labels(names: Iterable[str]) -> tuple[Tensor, list[str]]:
    """Number labels given by name; return the numbers, (N,), and the names in natural order: 2 comes before 10."""

    def natural_order(name: str) -> list[tuple[int, str]]:
        # every second part is a number
        return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(re.split(r"([0-9]+)", name))]

    given = list(names)
    classes = sorted(set(given), key=lambda name: (natural_order(name), name))
    numbers = {name: i for i, name in enumerate(classes)}
    return torch.tensor([numbers[name] for name in given]), classes


def chunk_batches(batch_pixels: int, on_gpu: bool) -> int:
    """Return the number of batches per chunk, for batches of `batch_pixels` numbers each."""
    if not on_gpu:
        return BATCHES_PER_CHUNK
    return max(1, min(BATCHES_PER_CHUNK_ON_GPU, MAX_CHUNK_PIXELS_ON_GPU // batch_pixels))


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) for a size given as one number (a square) or as two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def bernoulli_binarize(pixels: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.bool) -> Tensor:
    """Set each pixel to 1 with probability pixel/255, else to 0 (Salakhutdinov & Murray 2008). Keeps the shape.

    Each pixel is compared with 16 random bits. A pixel of 0 never becomes 1, a pixel of 255 always does; the
    probability of any other value is exact to 2^-16.
    """
    words = torch.empty(-(-pixels.numel() // 4), dtype=torch.int64, device=pixels.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: pixels.numel()].view_as(pixels)
    levels = pixels.short().mul_(257).sub_(2**15)  # maps 0..255 to -2^15..2^15-1
    return torch.lt(bits.clamp_(max=2**15 - 2), levels, out=torch.empty_like(pixels, dtype=dtype))


def threshold(pixels: Tensor, _generator: torch.Generator) -> Tensor:
    """Return a bool tensor: True for pixels above 127."""
    return pixels > 127


def identity(pixels: Tensor, _generator: torch.Generator) -> Tensor:
    """Return the pixels unchanged."""
    return pixels


def to_float(pixels: Tensor) -> Tensor:
    """Convert pixels to float in [0, 1]: uint8 is divided by 255, bool becomes 0 or 1, float is unchanged."""
    return pixels.float().div_(255) if pixels.dtype is torch.uint8 else pixels.float()


def check_pixels(pixels: Tensor) -> Tensor:
    """Return pixels as uint8, bool, or float in [0, 1]; whole numbers from 0 to 255 become uint8.

    Raises UserError if they do not have four dimensions, (N, C, H, W), or for other values.
    """
    if pixels.ndim != 4:
        raise UserError(f"dataset: its images have the shape {tuple(pixels.shape)}; expected (N, C, H, W)")
    if pixels.dtype in (torch.uint8, torch.bool):
        return pixels
    low, high = (pixels.min().item(), pixels.max().item()) if pixels.numel() else (0, 0)
    if pixels.is_floating_point() and low >= 0 and high <= 1:
        return pixels.float()
    if not (pixels.is_floating_point() or pixels.is_complex()) and low >= 0 and high <= 255:
        return pixels.to(torch.uint8)
    given = f"{str(pixels.dtype).removeprefix('torch.')} from {low:g} to {high:g}"
    raise UserError(f"dataset: its pixels are {given}; expected uint8, bool, or float from 0 to 1")


def to_levels(pixels: Tensor) -> Tensor:
    """Round float pixels in [0, 1] to the 256 levels of uint8."""
    return pixels.mul(255).round().byte() if pixels.is_floating_point() else pixels


Binarize = Callable[[Tensor, torch.Generator], Tensor]  # maps pixels (N, C, H, W) to the same shape

# For each value of dataset.binarize, the transforms of: every training batch; the training images, once at setup; the
# validation and test images, once at setup.
BINARIZE: dict[str, tuple[Binarize, Binarize, Binarize]] = {
    "dynamic": (partial(bernoulli_binarize, dtype=torch.float), identity, bernoulli_binarize),
    "static": (identity, bernoulli_binarize, bernoulli_binarize),
    "threshold": (identity, threshold, threshold),
    "none": (identity, identity, identity),
}


class RNGPurpose(IntEnum):
    """Purposes of random numbers. Each purpose has an independent random stream."""

    SPLIT = 1
    FIXED_BINARIZATION = 2
    EPOCH = 3
    RANK = 4


def generator(device: torch.device, purpose: RNGPurpose, *seed: int) -> torch.Generator:
    """Return a generator seeded by the purpose and these seeds only."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence([purpose, *seed]).generate_state(1)[0]))


class Batches:
    """Iterate once over pixels (N, C, H, W), in order, in batches of float images in [0, 1], (B, C, H, W)."""

    def __init__(self, pixels: Tensor, batch_size: int) -> None:
        self.pixels, self.batch_size = pixels, batch_size

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return map(to_float, self.pixels.split(self.batch_size))


class EpochLoader:
    """Training data loader: shuffle and transform the pixels in each epoch, and yield chunks of several batches.

    The order and the random numbers of `per_batch_transform` depend on `seed` and `epoch()` only. An epoch has all
    images, or `images` of them. `state_dict` and `load_state_dict`, which Lightning calls, resume an interrupted epoch
    at its next chunk.
    """

    def __init__(
        self,
        pixels: Tensor,
        batch_size: int,
        per_batch_transform: Binarize,
        seed: int,
        epoch: Callable[[], int],
        images: int | None = None,
    ) -> None:
        self.pixels, self.batch_size = pixels, batch_size
        self.images = min(images or len(pixels), len(pixels))
        self.per_batch_transform, self.seed, self.epoch = per_batch_transform, seed, epoch
        on_gpu = pixels.device.type == "cuda"
        self.chunk_size = batch_size * chunk_batches(batch_size * prod(pixels.shape[1:]), on_gpu)  # in images
        self.chunks_taken = 0

    def __len__(self) -> int:
        return -(-self.images // self.chunk_size)

    def __iter__(self) -> Iterator[Batches]:
        first, self.chunks_taken = self.chunks_taken % len(self), 0
        rng = generator(self.pixels.device, RNGPurpose.EPOCH, self.seed, self.epoch())
        yield from self.shuffled_chunks(self.pixels, rng, first)

    def shuffled_chunks(self, pixels: Tensor, rng: torch.Generator, first: int) -> Iterator[Batches]:
        """Yield pixels in random order, without the first chunks of the epoch, which an interrupted run has used."""
        order = torch.randperm(len(pixels), generator=rng, device=pixels.device)
        for rows in order[: self.images].split(self.chunk_size):
            batches = Batches(self.per_batch_transform(pixels.index_select(0, rows), rng), self.batch_size)
            self.chunks_taken += 1
            if self.chunks_taken > first:
                yield batches

    def state_dict(self) -> dict[str, int]:
        return {"taken": self.chunks_taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.chunks_taken = state["taken"]


class StoredEpochLoader(EpochLoader):
    """`EpochLoader` for pixels in a file. One buffer of images is in memory at a time, and is shuffled there.

    A buffer consists of blocks of consecutive images, from random places of the file.
    """

    pixels: Any  # StoredPixels

    def __iter__(self) -> Iterator[Batches]:
        first, self.chunks_taken = self.chunks_taken % len(self), 0
        rng = generator(torch.device("cpu"), RNGPurpose.EPOCH, self.seed, self.epoch())
        image_bytes = prod(self.pixels.shape[1:]) * self.pixels.dtype.itemsize
        blocks = torch.arange(len(self.pixels)).split(max(1, BLOCK_BYTES // image_bytes))
        order = torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=rng)])
        chunks = max(1, BUFFER_BYTES // (self.chunk_size * image_bytes))  # per buffer
        for i, rows in enumerate(order[: self.images].split(chunks * self.chunk_size)):
            if first >= self.chunks_taken + chunks:
                self.chunks_taken += chunks
                continue
            rng = generator(self.pixels.device, RNGPurpose.EPOCH, self.seed, self.epoch(), i)
            yield from self.shuffled_chunks(self.pixels[rows], rng, first)


@dataclass(eq=False)
class ImageDataModule(LightningDataModule, ABC):
    """Base class of all datasets. A subclass implements `load` and, if it needs files, `fetch_files`.

    `seed` shuffles and binarises the training images. `split_seed` selects the validation images and binarises the
    validation and test images, once, so that runs with any `seed` are evaluated on the same images. Sizes of splits
    are numbers of images or, below 1, fractions.
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
        self.train_batches: int | float = 1.0  # number or fraction of the batches that an epoch takes
        self.overfit = False  # whether every epoch has the batches of the first

    def prepare_data(self) -> None:
        if not self.images:  # Lightning calls this again in every stage
            self.fetch_files()

    def fetch_files(self) -> None:
        """Download missing files and verify all. Raises UserError if this fails. The default has no files."""

    @abstractmethod
    def load(self) -> dict[str, Images]:
        """Return the images of the splits "train", "val" and "test"."""

    def augment(self, pixels: Tensor, _rng: torch.Generator) -> Tensor:
        """Augment a batch of training images, before binarisation. The default returns it unchanged."""
        return pixels

    def split_rows(
        self, n: int, test_size: float = 0, groups: Tensor | None = None, in_order: bool = False
    ) -> dict[str, Tensor]:
        """Divide n images into those for training and validation, and for the test if `test_size` > 0.

        Returns the rows of each split. They are drawn at random or, if `in_order`, taken from the end. With `groups`,
        (n,), the sizes count groups, and no group is in two splits. A fraction is at least 1 image for validation and
        2 for the test. Raises UserError if a size is impossible or leaves
        no training images.
        """
        unique, group = (None, None) if groups is None else groups.unique(return_inverse=True)
        items = n if unique is None else len(unique)
        least = 4 if test_size else 2
        if items < least:
            splits = "training, validation and test" if test_size else "training and validation"
            kind = "images" if groups is None else "groups of images"
            raise UserError(f"dataset: expected {least} {kind} or more, for {splits}; found {items}")
        val = int(self.val_size) if self.val_size >= 1 else max(1, round(self.val_size * items))
        test = int(test_size) if test_size >= 1 or not test_size else max(2, round(test_size * items))
        if not (0 < val < items - test and (test > 1 or not test_size)):
            sizes = f"dataset.val_size={self.val_size}" + (f" and dataset.test_size={test_size}" if test_size else "")
            available = f"of the {items} {'images' if groups is None else 'groups'}"
            limits = f"1 to {items - 1} {available}"
            if test_size:
                limits = f"at least 1 and 2 {available}, and at most {items - 1} together"
            raise UserError(f"{sizes}: expected {limits}")
        rng = generator(torch.device("cpu"), RNGPurpose.SPLIT, self.split_seed)
        rows = torch.arange(items).flip(0) if in_order else torch.randperm(items, generator=rng)
        ends = torch.tensor([test, test + val])
        if group is not None:
            rank = rows.argsort()[group]  # position of each image's group
            rows = rank.argsort(stable=True)
            ends = torch.searchsorted(rank[rows], ends)
        test_rows, val_rows, train_rows = rows.tensor_split(ends)
        return {"train": train_rows, "val": val_rows} | ({"test": test_rows} if test else {})

    def split_off(
        self, images: Images, test_size: float = 0, groups: Tensor | None = None, in_order: bool = False
    ) -> dict[str, Images]:
        """Return the images of the splits of `split_rows`."""
        rows = self.split_rows(len(images.pixels), test_size, groups, in_order)
        return {split: images.select(part) for split, part in rows.items()}

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - all splits are loaded at once
        if self.images:
            return
        _, binarize_train, binarize_eval = BINARIZE[self.binarize]
        for i, (split, images) in enumerate(self.load().items()):
            binarize = binarize_train if split == "train" else binarize_eval
            rng = generator(torch.device("cpu"), RNGPurpose.FIXED_BINARIZATION, self.split_seed, i)
            pixels = images.pixels
            if isinstance(pixels, Tensor):
                pixels = check_pixels(pixels)
                pixels = binarize(pixels if self.binarize == "none" else to_levels(pixels), rng)
            self.images[split] = images._replace(pixels=pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.images["train"].pixels.shape[1:]
        return channels, height, width

    @property
    def has_pictures(self) -> bool:
        """Whether images can be shown; vectors cannot."""
        return True

    @property
    def batches_per_epoch(self) -> int:
        batches = -(-len(self.images["train"].pixels) // self.batch_size)
        limit = self.train_batches
        return min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))

    def x(self, split: str, rows: slice | Tensor = slice(None)) -> Tensor:
        """Return images of a split as model input without augmentation: float in [0, 1], (N, C, H, W)."""
        pixels = self.images[split].pixels[rows]
        if split == "train":
            rng = generator(pixels.device, RNGPurpose.FIXED_BINARIZATION, self.split_seed)
            pixels = BINARIZE[self.binarize][0](pixels, rng)
        return to_float(pixels)

    def mean_image(self) -> Tensor:
        """Return the mean training image, (C, H, W), float in [0, 1]."""
        pixels = self.images["train"].pixels
        mean = pixels.float().mean(0) if isinstance(pixels, Tensor) else pixels.mean()
        return mean / 255 if pixels.dtype is torch.uint8 else mean

    def on_device(self, split: str) -> Any:
        """Return the pixels of a split, (N, C, H, W), on the training device."""
        assert self.trainer is not None
        return self.images[split].pixels.to(self.trainer.strategy.root_device)

    def train_dataloader(self) -> EpochLoader:
        trainer: Any = self.trainer
        pixels = self.on_device("train")
        loader = EpochLoader if isinstance(pixels, Tensor) else StoredEpochLoader
        return loader(
            pixels,
            self.batch_size,
            lambda pixels, rng: BINARIZE[self.binarize][0](self.augment(pixels, rng), rng),
            self.seed,
            lambda: 0 if self.overfit else trainer.current_epoch,
            self.batches_per_epoch * self.batch_size,
        )

    def val_dataloader(self) -> Batches:
        return Batches(self.on_device("val"), EVAL_BATCH)

    def test_dataloader(self) -> Batches:
        return Batches(self.on_device("test"), EVAL_BATCH)
