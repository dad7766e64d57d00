"""Images as the model receives them, given by name, by number, as a file, as a PIL image or as an array."""

import io
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.base import ImageDataModule, Images
from datamodules.folder import MODES
from datamodules.image_files import decode_image
from datamodules.pixels import BINARIZE, RNGPurpose, generator, to_float, to_levels
from vae.api.pictures import Pictures
from vae.errors import UserError

SPLITS = ("test", "val", "train")  # the order in which names are searched


class SelectedImages(NamedTuple):
    """Images as the model receives them, (N, C, H, W), their names, and the labels of a conditional model, if known."""

    x: Tensor
    names: list[str]
    y: tuple[Tensor, ...] = ()  # one-hot, (N, labels)


def join(found: Sequence[SelectedImages]) -> SelectedImages:
    """Return several images as one. Their labels are known if those of all are."""
    labels = [image.y for image in found]
    y = tuple(map(torch.cat, zip(*labels, strict=True))) if all(labels) else ()
    return SelectedImages(torch.cat([image.x for image in found]), [image.names[0] for image in found], y)


def image_name(images: Images, split: str, row: int) -> str:
    """Return the name of an image, or its split and number if the dataset has no names."""
    return images.names[row] if images.names else f"{split} {row}"


def select(data: ImageDataModule, split: str, rows: Tensor) -> SelectedImages:
    """Return the images in these rows of a split."""
    images = data.images[split]
    names = [image_name(images, split, row) for row in rows.tolist()]
    return SelectedImages(data.x(split, rows), names, data.y(split, rows))


def random_images(data: ImageDataModule, split: str, n: int) -> SelectedImages:
    """Draw n different images of a split. Raises UserError if the split has fewer."""
    return select(data, split, random_rows(data, split, n))


def random_pairs(data: ImageDataModule, split: str, n: int) -> SelectedImages:
    """Draw n pairs of images of a split, one after the other. Raises UserError if it has fewer than 2 n images.

    The second image of a pair has another name than the first, if one with another name is left.
    """
    names, rows = data.images[split].names, random_rows(data, split, n, each=2).tolist()
    firsts, seconds, pairs = rows[:n], rows[n:], []
    for first in firsts:
        others = (i for i, second in enumerate(seconds) if names and names[second] != names[first])
        pairs += [first, seconds.pop(next(others, 0))]
    return select(data, split, torch.tensor(pairs))


def random_rows(data: ImageDataModule, split: str, n: int, each: int = 1) -> Tensor:
    """Draw n * each different rows of a split. Raises UserError if the split has fewer."""
    available = len(data.images[split].pixels)
    if n * each > available:
        raise UserError(f"n={n}: expected {available // each} or fewer; each uses {each} of {available} {split} images")
    return torch.randperm(available)[: n * each]


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


def resolve_image(data: ImageDataModule, key: str, identifier: str | int | np.integer) -> SelectedImages:
    """Return the image with this name, the test image with this number, or the image in this file.

    test:3, val:3 and train:3 are images of these splits by number. Raises UserError if there is none.
    """
    split, _, number = (identifier if isinstance(identifier, str) else f"test:{identifier}").partition(":")
    if split in SPLITS and number.removeprefix("-").isdecimal():
        last = len(data.images[split].pixels) - 1
        if not 0 <= int(number) <= last:
            raise UserError(f"{key}={identifier}: expected 0 to {last}, the number of a {split} image")
        return select(data, split, torch.tensor([int(number)]))
    assert isinstance(identifier, str)
    last = len(data.images["test"].pixels) - 1
    by_name: dict[str, tuple[str, int]] = {}
    for split in SPLITS:
        for row, name in enumerate(data.images[split].names or ()):
            by_name.setdefault(name, (split, row))
    lower = {name.lower(): name for name in by_name}
    if found := by_name.get(identifier) or by_name.get(lower.get(identifier.lower(), "")):
        return select(data, found[0], torch.tensor([found[1]]))
    if Path(identifier).expanduser().is_file():
        pixels = read_image_file(data, key, Path(identifier).expanduser(), identifier)
        return SelectedImages(model_input(data, pixels), [Path(identifier).stem])
    close = [lower[name] for name in get_close_matches(identifier.lower(), lower, n=3)]
    guess = f"; did you mean {' or '.join(close)}?" if close else ""
    named = "the name of an image, " if by_name else ""
    raise UserError(f"{key}={identifier}: expected {named}the number of a test image, 0 to {last}, or a file{guess}")


def resolve_images(data: ImageDataModule, key: str, identifiers: Sequence[str | int]) -> SelectedImages:
    """Return several images, in the given order."""
    return join([resolve_image(data, key, identifier) for identifier in identifiers])


def read_pil_image(data: ImageDataModule, image: Image.Image) -> Tensor:
    """Convert a PIL image as if it were read from a file: pixels (1, C, H, W), uint8."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return read_image_file(data, "images", file, "PIL image")


def array_pixels(data: ImageDataModule, array: Any) -> Tensor:
    """Return an array or tensor of images, or of one image, as pixels (N, C, H, W), uint8; float if the dataset's are.

    Raises UserError if the shape, the type or the values are not those of images of the dataset.
    """
    try:
        values = array.detach().cpu() if isinstance(array, Tensor) else torch.as_tensor(np.ascontiguousarray(array))
    except (TypeError, ValueError):
        given = type(array).__name__
        raise UserError(f"images: expected an array, names, numbers of test images or files; got {given}") from None
    channels, height, width = data.shape
    layouts: dict[tuple[int, ...], Callable[[Tensor], Tensor]] = {
        (channels, height, width): lambda x: x,
        (height, width, channels): lambda x: x.permute(0, 3, 1, 2),
    }
    if channels == 1:
        layouts[height, width] = lambda x: x[:, None]
    if channels == height == 1:
        layouts[(width,)] = lambda x: x[:, None, None]
    shapes = [shape for shape in layouts if values.shape in (shape, (len(values), *shape))] if values.dim() else []
    if not shapes:
        allowed = " or ".join(f"(N, {', '.join(map(str, shape))})" for shape in layouts)
        raise UserError(f"images: expected an array of shape {allowed}; got {tuple(values.shape)}")
    found = layouts[shapes[0]](values.reshape(-1, *shapes[0]))
    if found.dtype is torch.uint8:
        return found
    if found.dtype is torch.bool:
        return found.byte() * 255
    if not found.is_floating_point():
        raise UserError(
            f"images: expected uint8, bool, or float in [0, 1]; got {str(found.dtype).removeprefix('torch.')}"
        )
    if found.numel() and not ((found >= 0) & (found <= 1)).all():
        low, high = found.min().item(), found.max().item()
        raise UserError(f"images: expected uint8, bool, or float in [0, 1]; got values from {low:g} to {high:g}")
    return found.float() if data.images["train"].pixels.dtype.is_floating_point else to_levels(found)


def as_images(data: ImageDataModule, given: Any) -> SelectedImages:
    """Return what a caller gives as images: an array or tensor, or one or several names, numbers, files or PIL images.

    Raises UserError if an image is not found, or if an array does not suit the dataset.
    """
    items = list(given) if isinstance(given, list | tuple) else [given]
    if not items or not all(isinstance(item, str | Path | int | np.integer | Image.Image) for item in items):
        x = model_input(data, array_pixels(data, given.x if isinstance(given, Pictures) else given))
        return SelectedImages(x, [f"image {row}" for row in range(len(x))])
    found = []
    for item in items:
        if isinstance(item, Image.Image):
            found.append(SelectedImages(model_input(data, read_pil_image(data, item)), ["image"]))
        else:
            found.append(resolve_image(data, "images", str(item) if isinstance(item, Path) else item))
    return join(found)
