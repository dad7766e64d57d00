"""Select images by name, by number or by file."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from datamodules.base import BINARIZE, ImageDataModule, Images, RNGPurpose, generator, to_float
from datamodules.folder import MODES
from datamodules.image_files import decode_image
from vae.errors import UserError

SPLITS = ("test", "val", "train")  # the order in which names are searched


class SelectedImages(NamedTuple):
    """Images as the model receives them, (N, C, H, W), and their names."""

    x: Tensor
    names: list[str]


def image_name(images: Images, split: str, row: int) -> str:
    """Return the name of an image, or its split and number if the dataset has no names."""
    return images.names[row] if images.names else f"{split} {row}"


def select(data: ImageDataModule, split: str, rows: Tensor) -> SelectedImages:
    """Return the images in these rows of a split."""
    images = data.images[split]
    return SelectedImages(data.x(split, rows), [image_name(images, split, row) for row in rows.tolist()])


def random_images(data: ImageDataModule, split: str, n: int, each: int = 1) -> SelectedImages:
    """Draw n * each different images of a split. Raises UserError if the split has fewer."""
    available = len(data.images[split].pixels)
    if n * each > available:
        raise UserError(f"n={n}: expected {available // each} or fewer; each uses {each} of {available} {split} images")
    return select(data, split, torch.randperm(available)[: n * each])


def read_image_file(data: ImageDataModule, key: str, file: Path | BinaryIO, name: str) -> Tensor:
    """Read an image file, cropped and scaled as for dataset=folder: pixels (1, C, H, W), uint8.

    Raises UserError if the file cannot be read as an image.
    """
    channels, height, width = data.shape
    picture = decode_image(file, (height, width), [*MODES.values()][channels > 1])
    if isinstance(picture, str):
        raise UserError(f"{key}={name}: expected a picture; {' '.join(picture.split())}")
    return torch.tensor(picture).permute(2, 0, 1)[None]


def model_input(data: ImageDataModule, pixels: Tensor) -> Tensor:
    """Convert pixels (N, C, H, W), uint8, to float images in [0, 1], binarized as test images are."""
    rng = generator(pixels.device, RNGPurpose.FIXED_BINARIZATION, data.split_seed)
    return to_float(BINARIZE[data.binarize][2](pixels, rng))


def resolve_image(data: ImageDataModule, key: str, identifier: str | int) -> SelectedImages:
    """Return the image with this name, the test image with this number, or the image in this file.

    Raises UserError if there is none.
    """
    last = len(data.images["test"].pixels) - 1
    if isinstance(identifier, int):
        if not 0 <= identifier <= last:
            raise UserError(f"{key}={identifier}: expected 0 to {last}, the number of a test image")
        return select(data, "test", torch.tensor([identifier]))
    by_name: dict[str, tuple[str, int]] = {}
    for split in SPLITS:
        for row, name in enumerate(data.images[split].names or ()):
            by_name.setdefault(name, (split, row))
    lower = {name.lower(): name for name in by_name}
    if found := by_name.get(identifier) or by_name.get(lower.get(identifier.lower(), "")):
        return select(data, found[0], torch.tensor([found[1]]))
    if Path(identifier).is_file():
        pixels = read_image_file(data, key, Path(identifier), identifier)
        return SelectedImages(model_input(data, pixels), [Path(identifier).stem])
    close = [lower[name] for name in get_close_matches(identifier.lower(), lower, n=3)]
    guess = f"; did you mean {' or '.join(close)}?" if close else ""
    named = "the name of an image, " if by_name else ""
    raise UserError(f"{key}={identifier}: expected {named}the number of a test image, 0 to {last}, or a file{guess}")


def resolve_images(data: ImageDataModule, key: str, identifiers: Sequence[str | int]) -> SelectedImages:
    """Return several images, in the given order."""
    found = [resolve_image(data, key, identifier) for identifier in identifiers]
    return SelectedImages(torch.cat([image.x for image in found]), [image.names[0] for image in found])
