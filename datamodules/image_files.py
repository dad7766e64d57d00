"""Open and decode image files. They may come from anybody. Nothing here imports torch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vae.errors import UserError

# Pillow's names of the formats that may be opened. EPS is not among them: Pillow would run it with Ghostscript.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "AVIF", "PPM", "TGA")
MAX_PIXELS = 50_000_000


@contextmanager
def open_image(source: Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image file whose format is one of FORMATS.

    Raises UserError, before the file is decoded, if it has another format or too many pixels. If the file is damaged,
    Pillow may raise an exception of any type in the block.
    """
    limit = f"expected at most {max_pixels / 1e6:g} million"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError:
        raise UserError(f"too many pixels: {limit}") from None
    except UnidentifiedImageError:
        raise UserError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None
    with file:
        if file.width * file.height > max_pixels:
            raise UserError(f"{file.width} x {file.height} pixels: {limit}")
        yield file


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Convert an image of 16 bits per pixel to 8. Raises ValueError for 32 bits per pixel."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per pixel are not supported")
    return image


def decode_image(source: Path | BinaryIO, size: tuple[int, int], mode: str) -> np.ndarray | str:
    """Return an image, centre-cropped and scaled to `size` (H, W), on white: (H, W, C), uint8.

    If the file cannot be read, return the error message instead.
    """
    try:
        with open_image(source) as file:
            upright = ImageOps.exif_transpose(to_eight_bits(file))
            rgba = upright.convert("RGBA")
            on_white = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert(mode)
            fitted = ImageOps.fit(on_white, size[::-1], Image.Resampling.LANCZOS)
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # noqa: BLE001 (Pillow raises many kinds of exceptions on a damaged file)
        return str(error) or type(error).__name__
    return np.asarray(fitted).reshape(*size, -1)
