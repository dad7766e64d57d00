"""Which images somebody means: by name, by number or by file."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from datamodules.base import BINARIZE, ImageDataModule, Images, RNGPurpose, generator, to_float
from datamodules.folder import MODES, decode_image
from vae.errors import UserError

SPLITS = ("test", "val", "train")  # in which a name is looked for


class SelectedImages(NamedTuple):
    """Images as the model is fed them, (N, C, H, W), and what to call each."""

    x: Tensor
    names: list[str]


def called(images: Images, split: str, row: int) -> str:
    """The name of one of a split's images, or its number there."""
    return images.names[row] if images.names else f"{split} {row}"


def at(data: ImageDataModule, split: str, rows: Tensor) -> SelectedImages:
    """The images of these rows of a split."""
    images = data.images[split]
    return SelectedImages(data.x(split, rows), [called(images, split, row) for row in rows.tolist()])


def some(data: ImageDataModule, split: str, n: int, each: int = 1) -> SelectedImages:
    """So many times `each` different ones of a split, at random; UserError if it has fewer."""
    there = len(data.images[split].pixels)
    if n * each > there:
        raise UserError(f"n={n}: expected {there // each} at most, {each} of {there} {split} images for each")
    return at(data, split, torch.randperm(there)[: n * each])


def of_picture(data: ImageDataModule, key: str, file: Path | BinaryIO, name: str) -> SelectedImages:
    """A picture, cut and scaled as dataset=folder does, and made binary as test images are; UserError if it is none."""
    channels, height, width = data.shape
    picture = decode_image(file, (height, width), [*MODES.values()][channels > 1])
    if isinstance(picture, str):
        raise UserError(f"{key}={name}: expected a picture; {' '.join(picture.split())}")
    pixels = torch.tensor(picture).permute(2, 0, 1)[None]
    rng = generator(pixels.device, RNGPurpose.FIXED_BINARIZATION, data.split_seed)
    return SelectedImages(to_float(BINARIZE[data.binarize][2](pixels, rng)), [Path(name).stem])


def one(data: ImageDataModule, key: str, meant: str | int) -> SelectedImages:
    """The image with this name, the test image of this number, or the picture in this file."""
    most = len(data.images["test"].pixels) - 1
    if isinstance(meant, int):
        if not 0 <= meant <= most:
            raise UserError(f"{key}={meant}: expected 0 to {most}, the number of a test image")
        return at(data, "test", torch.tensor([meant]))
    known: dict[str, tuple[str, int]] = {}
    for split in SPLITS:
        for row, name in enumerate(data.images[split].names or ()):
            known.setdefault(name, (split, row))
    lower = {name.lower(): name for name in known}
    if found := known.get(meant) or known.get(lower.get(meant.lower(), "")):
        return at(data, found[0], torch.tensor([found[1]]))
    if Path(meant).is_file():
        return of_picture(data, key, Path(meant), meant)
    close = [lower[name] for name in get_close_matches(meant.lower(), lower, n=3)]
    guess = f"; did you mean {' or '.join(close)}?" if close else ""
    named = "the name of an image, " if known else ""
    raise UserError(f"{key}={meant}: expected {named}the number of a test image, 0 to {most}, or a file{guess}")


def all_of(data: ImageDataModule, key: str, meant: Sequence[str | int]) -> SelectedImages:
    """Several, in this order."""
    found = [one(data, key, which) for which in meant]
    return SelectedImages(torch.cat([image.x for image in found]), [image.names[0] for image in found])
