"""Uploaded image files and drawn digits."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.image_files import open_image
from vae.errors import UserError

MAX_BYTES = 16_000_000  # of a file
MIN_SIDE, MAX_PIXELS = 4, 25_000_000
BACKGROUND_TOLERANCE = 0.05  # distance of the mean image's border from black or white on a plain background
OPPOSITE = 0.6  # distance of an upload's border from the background of the dataset, from which on it is inverted
DIGIT_BOX = 20 / 28  # height of a digit of MNIST, as a fraction of the image
EMPTY_DRAWING = "the drawing is empty"


@contextmanager
def open_upload(content: bytes) -> Iterator[Image.Image]:
    """Open an image file. Raises UserError if it cannot be used, also for errors inside the `with` block."""
    try:
        with open_image(io.BytesIO(content), MAX_PIXELS) as picture:
            yield picture
    except UserError:
        raise
    except Exception:  # noqa: BLE001 (Pillow raises nearly any type for a damaged file)
        raise UserError("this file cannot be read as an image: it is damaged") from None


def check_image(content: bytes) -> list[str]:
    """Return remarks on an image file. Raises UserError if it cannot be used."""
    with open_upload(content) as picture:
        width, height = picture.size
        frames = getattr(picture, "n_frames", 1)
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{width} x {height} pixels: expected at least {MIN_SIDE} per side")
    return [f"animated image: the first of {frames} frames is used"] if frames > 1 else []


def centre_drawing(content: bytes, shape: Sequence[int], background: str | None) -> io.BytesIO:
    """Scale and centre a light drawing on dark ground as the digits of MNIST are (LeCun et al. 1998, sec. III.A).

    The drawing fits into a box of 20/28 of the image and its centre of mass is in the middle. It is inverted for a
    "light" background. `shape` is (C, H, W). Returns a PNG file. Raises UserError if the drawing is empty.
    """
    _, height, width = shape
    with open_upload(content) as picture:
        drawing = picture.convert("L")
    box = drawing.point(lambda level: 255 * (level > 40)).getbbox()
    if box is None:
        raise UserError(EMPTY_DRAWING)
    ink = drawing.crop(box)
    scale = DIGIT_BOX * min(height, width) / max(ink.size)
    ink = ink.resize([max(1, round(side * scale)) for side in ink.size], Image.Resampling.LANCZOS)  # type: ignore[arg-type]
    levels = np.asarray(ink, float)
    if not levels.any():  # a few distant dots vanish when they are scaled
        raise UserError(EMPTY_DRAWING)
    centre = [np.average(np.arange(n) + 0.5, weights=levels.sum(1 - axis)) for axis, n in enumerate(levels.shape)]
    page = Image.new("L", (width, height))
    page.paste(ink, (round(width / 2 - centre[1]), round(height / 2 - centre[0])))
    if background == "light":
        page = ImageOps.invert(page)
    file = io.BytesIO()
    page.save(file, "PNG")
    return file


def border(image: Tensor) -> Tensor:
    """Return the outermost pixels of a grey image (1, H, W)."""
    return torch.cat([image[0, [0, -1]].flatten(), image[0, :, [0, -1]].flatten()])


def background_of(data: ImageDataModule) -> str | None:
    """Return "dark" or "light" if grey images have a plain black or white background, else None."""
    mean = data.mean_image()
    if len(mean) > 1:
        return None
    edge = border(mean)
    if edge.max() < BACKGROUND_TOLERANCE:
        return "dark"
    return "light" if edge.min() > 1 - BACKGROUND_TOLERANCE else None


def has_opposite_background(pixels: Tensor, background: str | None) -> bool:
    """Return whether a grey image (1, H, W), uint8, is dark on light where the dataset is light on dark, or reverse."""
    if background is None:
        return False
    level = border(pixels).float().median().item() / 255
    return (level if background == "dark" else 1 - level) > OPPOSITE
