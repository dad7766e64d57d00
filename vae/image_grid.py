"""Grids of images with captions, as uint8 arrays (height, width, 3) and as PNG, GIF and MP4 files."""

import io
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import avg_pool2d

Picture = NDArray[np.uint8]  # (height, width, 3)

GAP, MARGIN = 10, 24  # pixels between images and around the page
FONT_SIZE, MIN_FONT_SIZE, TEXT_COLOUR = 13, 10, (70, 70, 70)
MAX_GIF_BYTES = 2_000_000


class Row(NamedTuple):
    """Images (N, C, H, W) in [0, 1], about `side` pixels high, with a caption under each and a label on the left."""

    images: Tensor
    captions: Sequence[str] = ()
    label: str = ""
    side: int = 96


def to_arrays(images: Tensor, side: int) -> list[Picture]:
    """Convert images (N, C, H, W) to RGB arrays, enlarged by a whole factor to about `side` pixels height."""
    zoom = max(1, round(side / images.shape[-2]))
    pixels = (images.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1)
    return list(pixels.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3).permute(0, 2, 3, 1).cpu().numpy())


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which covers most alphabets and is installed with matplotlib."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def draw_text(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, width: float, anchor: str) -> None:
    """Draw text at (x, y). Text wider than `width` gets a smaller font and is then shortened."""
    size = FONT_SIZE
    while size > MIN_FONT_SIZE and font(size).getlength(text) > width:
        size -= 1
    while len(text) > 1 and font(size).getlength(text) > width:
        text = text.rstrip("…")[:-1] + "…"
    draw.text((x, y), text, TEXT_COLOUR, font(size), anchor)


def render_rows(rows: Sequence[Row]) -> Picture:
    """Draw the rows below each other, centred, on white."""
    drawn = [to_arrays(row.images, row.side) for row in rows]
    widths = [sum(image.shape[1] + GAP for image in images) - GAP for images in drawn]
    caption_heights = [FONT_SIZE + 8 if any(row.captions) else 0 for row in rows]
    heights = [images[0].shape[0] + text for images, text in zip(drawn, caption_heights, strict=True)]
    left = MARGIN + max(round(font(FONT_SIZE).getlength(row.label)) + GAP if row.label else 0 for row in rows)
    page = Image.new("RGB", (left + max(widths) + MARGIN, 2 * MARGIN + sum(heights) + GAP * (len(rows) - 1)), "white")
    draw = ImageDraw.Draw(page)
    y = MARGIN
    for row, images, width, height in zip(rows, drawn, widths, heights, strict=True):
        x = left + (max(widths) - width) // 2
        draw.text((left - GAP, y + images[0].shape[0] / 2), row.label, TEXT_COLOUR, font(FONT_SIZE), "rm")
        for i, image in enumerate(images):
            page.paste(Image.fromarray(image), (x, y))
            if i < len(row.captions):
                at = x + image.shape[1] / 2, y + image.shape[0] + 5
                draw_text(draw, *at, row.captions[i], image.shape[1], "ma")
            x += image.shape[1] + GAP
        y += height + GAP
    return np.asarray(page)


def encode_png(picture: Picture) -> bytes:
    """Encode a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def encode_gif(frames: Sequence[Picture], milliseconds: int) -> bytes:
    """Encode an endless GIF. All frames share one palette of 256 colours, so that nothing flickers."""
    sample = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 16)]))
    palette = sample.quantize(256, Image.Quantize.MEDIANCUT)
    first, *others = (Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, optimize=False)
    return file.getvalue()


def encode_mp4(frames: Sequence[Picture], milliseconds: int) -> bytes:
    """Encode an MP4 (H.264), whose height and width are even: a white row or column is added if needed."""
    import av

    file, (height, width) = io.BytesIO(), frames[0].shape[:2]
    with av.open(file, "w", format="mp4") as film:
        stream = film.add_stream("libx264", Fraction(1000, milliseconds), options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        for frame in frames:
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(even, "rgb24")))
        film.mux(stream.encode())
    return file.getvalue()


def animate(frames: Tensor, columns: int, milliseconds: int = 50, width: int = 560) -> bytes:
    """Encode images (T, N, C, H, W) in [0, 1] as a GIF of T frames with N images each.

    The GIF is about `width` pixels wide, or smaller if it would exceed MAX_GIF_BYTES.
    """
    columns = min(columns, frames.shape[1])
    for zoom in range(max(1, round(width / (columns * frames.shape[-1]))), 0, -1):
        encoded = encode_gif([tile(images, columns, zoom) for images in frames], milliseconds)
        if len(encoded) <= MAX_GIF_BYTES:
            return encoded
    while len(encoded) > MAX_GIF_BYTES and min(frames.shape[-2:]) >= 16:
        frames = avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, frames.shape[:2])
        encoded = encode_gif([tile(images, columns, 1) for images in frames], milliseconds)
    return encoded


def tile(images: Tensor, columns: int, zoom: int) -> Picture:
    """Arrange images (N, C, H, W) row by row with a thin white line between them."""
    shown = to_arrays(images, zoom * images.shape[-2])
    h, w = shown[0].shape[0] + 2, shown[0].shape[1] + 2
    page = np.full((-(-len(shown) // columns) * h - 2, columns * w - 2, 3), 255, np.uint8)
    for i, image in enumerate(shown):
        y, x = i // columns * h, i % columns * w
        page[y : y + h - 2, x : x + w - 2] = image
    return page
