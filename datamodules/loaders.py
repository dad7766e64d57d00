"""Data loaders, which yield batches as slices of one tensor or, for a large file, of a part of it."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor

from datamodules.pixels import Binarize, RNGPurpose, generator, to_float

BATCHES_PER_CHUNK = 10  # batches that are binarised together and passed to one training_step
BATCHES_PER_CHUNK_ON_GPU = 100  # a GPU takes a step in a hundredth of the time of Lightning's overhead per call
MAX_CHUNK_PIXELS_ON_GPU = 2**25  # limits the memory of a chunk
LABELLED_EVERY = 10  # if only some images have labels, one in so many is drawn from these
BLOCK_BYTES = 2**20  # consecutive images of a file that stay together when its order is shuffled
BUFFER_BYTES = 2**27  # images of a file that are shuffled together


def chunk_batches(batch_pixels: int, on_gpu: bool) -> int:
    """Return the number of batches per chunk, for batches of `batch_pixels` numbers each."""
    if not on_gpu:
        return BATCHES_PER_CHUNK
    return max(1, min(BATCHES_PER_CHUNK_ON_GPU, MAX_CHUNK_PIXELS_ON_GPU // batch_pixels))


class Batches:
    """Iterate once over pixels (N, C, H, W), in order, in batches of float images in [0, 1], (B, C, H, W).

    With labels, (N,), batches are pairs of images and their labels.
    """

    def __init__(self, pixels: Tensor, batch_size: int, labels: Tensor | None = None) -> None:
        self.pixels, self.batch_size, self.labels = pixels, batch_size, labels

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        images = map(to_float, self.pixels.split(self.batch_size))
        return images if self.labels is None else zip(images, self.labels.split(self.batch_size), strict=True)


class EpochLoader:
    """Training data loader: shuffle and transform the pixels in each epoch, and yield chunks of several batches.

    The order and the random numbers of `per_batch_transform` depend on `seed` and `epoch()` only. An epoch has all
    images, or `images` of them, with their `labels`, (N,), if given. Missing labels are -1. If there are any, every
    tenth image is replaced by a labelled one, and all labelled images take turns. `state_dict` and `load_state_dict`,
    which Lightning calls, resume an interrupted epoch at its next chunk.
    """

    def __init__(
        self,
        pixels: Tensor,
        batch_size: int,
        per_batch_transform: Binarize,
        seed: int,
        epoch: Callable[[], int],
        images: int | None = None,
        labels: Tensor | None = None,
    ) -> None:
        self.pixels, self.batch_size, self.labels = pixels, batch_size, labels
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
        yield from self.shuffled_chunks(self.pixels, self.labels, rng, first)

    def shuffled_chunks(
        self, pixels: Tensor, labels: Tensor | None, rng: torch.Generator, first: int
    ) -> Iterator[Batches]:
        """Yield pixels in random order, without the first chunks of the epoch, which an interrupted run has used."""
        order = torch.randperm(len(pixels), generator=rng, device=pixels.device)
        if labels is not None and (labels < 0).any():
            n, labelled = len(order[::LABELLED_EVERY]), (labels >= 0).nonzero().squeeze(1)
            turns = torch.rand(-(-n // len(labelled)), len(labelled), generator=rng, device=pixels.device).argsort(1)
            order[::LABELLED_EVERY] = labelled[turns.flatten()[:n]]
        for rows in order[: self.images].split(self.chunk_size):
            transformed = self.per_batch_transform(pixels.index_select(0, rows), rng)
            batches = Batches(transformed, self.batch_size, None if labels is None else labels[rows])
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
            labels = None if self.labels is None else self.labels[rows.to(self.labels.device)]
            yield from self.shuffled_chunks(self.pixels[rows], labels, rng, first)
