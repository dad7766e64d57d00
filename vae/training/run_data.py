"""data.json: the shape of the images of a run, the labels of a conditional model, and a fingerprint of each split.

A run is always trained and tested on the same images: if a file or the split has changed, it is refused.
"""

import hashlib
import json
from math import prod
from pathlib import Path

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from datamodules.base import ImageDataModule, Images
from vae.config.schema import PositiveInt
from vae.errors import UserError
from vae.runs.atomic_files import atomic_write

FILE = "data.json"
MAX_BYTES = 2**27  # pixels of a split that are hashed


class Split(BaseModel, strict=True):
    images: int
    fingerprint: str


class RunData(BaseModel, strict=True):
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]  # (C, H, W)
    pictures: bool  # whether images can be shown; vectors cannot
    labels: list[str] = []  # the names of the labels that a conditional model is given
    splits: dict[str, Split]

    def check_pictures(self) -> None:
        """Raise UserError if the images cannot be shown."""
        if not self.pictures:
            raise UserError(f"run: its images have the shape {self.shape}, and cannot be shown as pictures")


def fingerprint(images: Images, labels: Tensor | None = None) -> str:
    """Return a hash of the pixels, in their order; of evenly spaced images if they have more than MAX_BYTES.

    With labels, (N,), they are hashed as well.
    """
    pixels = images.pixels
    n, image_bytes = len(pixels), prod(pixels.shape[1:]) * pixels.dtype.itemsize
    hashed = min(n, max(1, MAX_BYTES // image_bytes))
    part = pixels[torch.arange(hashed) * n // hashed] if hashed < n else pixels[:]
    digest = hashlib.sha256(f"{tuple(pixels.shape)} {pixels.dtype}".encode())
    digest.update(part.cpu().contiguous().numpy().data)
    if labels is not None:
        digest.update(labels.numpy().data)
    return digest.hexdigest()


def describe(data: ImageDataModule) -> RunData:
    """Describe the images of a dataset."""
    splits = {
        split: Split(images=len(images.pixels), fingerprint=fingerprint(images, data.label_index(split)))
        for split, images in data.images.items()
    }
    return RunData(shape=data.shape, pictures=data.has_pictures, labels=data.label_names, splits=splits)


def read_run_data(folder: Path) -> RunData | None:
    """Read data.json; None if the run has none, as those of version 0.1. Raises UserError if it is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return RunData.model_validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(f"{path}: damaged; expected the shape and the fingerprints of the run's images") from None


def write_run_data(data: ImageDataModule, folder: Path) -> None:
    """Write data.json, unless the run has it."""
    if not (folder / FILE).exists():
        atomic_write(json.dumps(describe(data).model_dump(), indent=2) + "\n", folder / FILE)


def check_run_data(data: ImageDataModule, folder: Path) -> None:
    """Raise UserError if the images or the split are not those of the run."""
    stored = read_run_data(folder)
    if not stored:
        return
    for split, found in describe(data).splits.items():
        expected = stored.splits.get(split)
        if found != expected:
            given = f"dataset.path={data.path}" if hasattr(data, "path") else "dataset"
            before = f"the {expected.images:,} {split} images" if expected else f"{split} images"
            reason = f"expected {before} of the run in {folder}, but these {found.images:,} are others"
            raise UserError(f"{given}: {reason}; the files or the split have changed")
