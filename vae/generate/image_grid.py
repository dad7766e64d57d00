"""Pages of images with captions, as arrays (height, width, 3) of uint8, and as files."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vae.figures import Picture

GAP, MARGIN = 10, 24  # pixels between images and around the page
TEXT, SMALLEST, INK = 13, 10, (70, 70, 70)
MOST = 2_000_000  # bytes of a GIF


class Row(NamedTuple):
    """Images (N, C, H, W) in [0, 1], shown about `side` pixels high, and what stands under each and left of all."""

    images: Tensor
    captions: Sequence[str] = ()
    label: str = ""
    side: int = 96


def arrays(images: Tensor, side: int) -> list[Picture]:
    """Each of (N, C, H, W), in colour and about `side` pixels high: enlarged without blur, never made smaller."""
    zoom = max(1, round(side / images.shape[-2]))
    pixels = (images.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1)
    return list(pixels.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3).permute(0, 2, 3, 1).cpu().numpy())


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which knows most alphabets and which matplotlib brings along."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def written(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, width: float, anchor: str) -> None:
    """The text at (x, y), smaller, and then cut, until it is no wider than `width`."""
    size = TEXT
    while size > SMALLEST and font(size).getlength(text) > width:
        size -= 1
    while len(text) > 1 and font(size).getlength(text) > width:
        text = text.rstrip("…")[:-1] + "…"
    draw.text((x, y), text, INK, font(size), anchor)


def sheet(rows: Sequence[Row]) -> Picture:
    """The rows below each other, each in the middle, on white."""
    drawn = [arrays(row.images, row.side) for row in rows]
    widths = [sum(image.shape[1] + GAP for image in images) - GAP for images in drawn]
    below = [TEXT + 8 if any(row.captions) else 0 for row in rows]
    heights = [images[0].shape[0] + text for images, text in zip(drawn, below, strict=True)]
    left = MARGIN + max(round(font(TEXT).getlength(row.label)) + GAP if row.label else 0 for row in rows)
    page = Image.new("RGB", (left + max(widths) + MARGIN, 2 * MARGIN + sum(heights) + GAP * (len(rows) - 1)), "white")
    draw = ImageDraw.Draw(page)
    y = MARGIN
    for row, images, width, height in zip(rows, drawn, widths, heights, strict=True):
        x = left + (max(widths) - width) // 2
        draw.text((left - GAP, y + images[0].shape[0] / 2), row.label, INK, font(TEXT), "rm")
        for i, image in enumerate(images):
            page.paste(Image.fromarray(image), (x, y))
            if i < len(row.captions):
                at = x + image.shape[1] / 2, y + image.shape[0] + 5
                written(draw, *at, row.captions[i], image.shape[1], "ma")
            x += image.shape[1] + GAP
        y += height + GAP
    return np.asarray(page)


def png(picture: Picture) -> bytes:
    """As a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def gif(frames: Sequence[Picture], milliseconds: int) -> bytes:
    """The frames over and over, all in the same 256 colours, so that nothing flickers."""
    every = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 16)]))
    palette = every.quantize(256, Image.Quantize.MEDIANCUT)
    first, *others = (Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, optimize=False)
    return file.getvalue()


def moving(frames: Tensor, columns: int, milliseconds: int = 50, width: int = 560) -> bytes:
    """Images (T, N, C, H, W) in [0, 1] as a GIF of T frames, N images in each: as large as MOST allows."""
    columns = min(columns, frames.shape[1])
    for zoom in range(max(1, round(width / (columns * frames.shape[-1]))), 0, -1):
        found = gif([tiled(images, columns, zoom) for images in frames], milliseconds)
        if len(found) <= MOST:
            return found
    while len(found) > MOST and min(frames.shape[-2:]) >= 16:
        frames = avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, frames.shape[:2])
        found = gif([tiled(images, columns, 1) for images in frames], milliseconds)
    return found


def tiled(images: Tensor, columns: int, zoom: int) -> Picture:
    """Images (N, C, H, W) row by row with a thin white line between them."""
    shown = arrays(images, zoom * images.shape[-2])
    h, w = shown[0].shape[0] + 2, shown[0].shape[1] + 2
    page = np.full((-(-len(shown) // columns) * h - 2, columns * w - 2, 3), 255, np.uint8)
    for i, image in enumerate(shown):
        y, x = i // columns * h, i % columns * w
        page[y : y + h - 2, x : x + w - 2] = image
    return page
