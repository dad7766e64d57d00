"""Picture files that somebody sends, and digits that somebody draws."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

from datamodules.base import ImageDataModule
from vae.errors import UserError

BYTES = 16_000_000  # of a file, at most
SIDE, PIXELS = 4, 50_000_000  # of a picture: at least a side, and at most in all
PLAIN = 0.05  # how far the edge of the mean image may be from black or white, where things lie on plain ground
BOX = 20 / 28  # the part of the height that a digit of MNIST has
NOTHING = "nothing is drawn yet"


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """A picture file; UserError where it, or what is done to it meanwhile, fails."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if picture.format == "EPS":
                raise ValueError("this is a program, which Ghostscript would run")
            yield picture
    except Image.DecompressionBombError:
        raise UserError(f"far too many pixels: expected {PIXELS // 1_000_000} million at most") from None
    except Exception:  # noqa: BLE001 (Pillow raises nearly anything on a damaged file)
        raise UserError("this is no picture that can be read; expected a file such as a PNG or a JPEG") from None


def remarks(content: bytes) -> list[str]:
    """What to say of a picture file that can be used; UserError if it cannot."""
    with opened(content) as picture:
        width, height = picture.size
        frames = getattr(picture, "n_frames", 1)
    if min(width, height) < SIDE or width * height > PIXELS:
        most = f"{PIXELS // 1_000_000} million in all"
        raise UserError(f"{width} x {height} pixels: expected {SIDE} or more a side, and at most {most}")
    return [f"it moves: of its {frames} frames, this is the first"] if frames > 1 else []


def centred(content: bytes, data: ImageDataModule) -> io.BytesIO:
    """A drawing, light on dark, as the digits of MNIST are: in a box of 20/28 of the side, its mass in the middle.

    LeCun et al. (1998), sec. III.A; on the ground that the dataset has. UserError if nothing is drawn.
    """
    _, height, width = data.shape
    with opened(content) as file:
        drawing = file.convert("L")
    box = drawing.point(lambda level: 255 * (level > 40)).getbbox()
    if box is None:
        raise UserError(NOTHING)
    ink = drawing.crop(box)
    scale = BOX * min(height, width) / max(ink.size)
    ink = ink.resize([max(1, round(side * scale)) for side in ink.size], Image.Resampling.LANCZOS)  # type: ignore[arg-type]
    levels = np.asarray(ink, float)
    if not levels.any():  # a few dots, far apart
        raise UserError(NOTHING)
    middle = [np.average(np.arange(n) + 0.5, weights=levels.sum(1 - axis)) for axis, n in enumerate(levels.shape)]
    page = Image.new("L", (width, height))
    page.paste(ink, (round(width / 2 - middle[1]), round(height / 2 - middle[0])))
    if on_plain_ground(data) == "light":
        page = ImageOps.invert(page)
    made = io.BytesIO()
    page.save(made, "PNG")
    return made


def on_plain_ground(data: ImageDataModule) -> str | None:
    """The ground that grey images lie on, "dark" or "light"; None where there is none, or colour."""
    mean = data.mean_image()
    edge = np.concatenate([mean[0, [0, -1]].flatten(), mean[0, :, [0, -1]].flatten()])
    grounds = {"dark": edge.max() < PLAIN, "light": edge.min() > 1 - PLAIN}
    return next((ground for ground, is_it in grounds.items() if is_it and len(mean) == 1), None)
