"""Any folder of pictures, read once and kept as one array of pixels."""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from tqdm import tqdm

from datamodules.base import ImageDataModule, Images, pair
from datamodules.fetch import content
from vae.errors import UserError

log = logging.getLogger(__name__)

MODES = {"grey": "L", "rgb": "RGB"}
ENDINGS = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".gif", ".webp", ".avif"),
    *(".bmp", ".tif", ".tiff", ".tga", ".pgm", ".ppm", ".pbm", ".pnm"),
}


def eight_bits(picture: Image.Image) -> Image.Image:
    """Sixteen bits a pixel as eight; ValueError for more."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel")
    return picture


def decode(picture: Path | BinaryIO, size: tuple[int, int], mode: str) -> np.ndarray | str:
    """The middle of a picture at this size (H, W), as (H, W, C) uint8, on white; or why it cannot be read."""
    try:
        with Image.open(picture) as file:
            upright = ImageOps.exif_transpose(eight_bits(file))
            rgba = upright.convert("RGBA")
            on_white = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert(mode)
            fitted = ImageOps.fit(on_white, size[::-1], Image.Resampling.LANCZOS)
    except Exception as error:  # noqa: BLE001 (Pillow raises nearly anything on a damaged file)
        return str(error) or type(error).__name__
    return np.asarray(fitted).reshape(*size, -1)


def pictures(folder: Path) -> list[Path]:
    """The files in it and below, through links too, whose names end as those of pictures do."""
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in files if Path(name).suffix.lower() in ENDINGS]
    return sorted(path for path in found if path.is_file() or path.is_symlink())


@dataclass(eq=False)
class Folder(ImageDataModule):
    """The pictures of a folder and of those in it, `val_size` and `test_size` of them held out.

    Each is cut about its middle to the shape of `size` (one number, or [height, width]), and scaled to it. `colour` is
    "rgb" or "grey". Where there are folders in the folder, the one a picture is in is its label. What was read is kept
    in `data_dir`/folder, and read anew when a picture changes. A file that is no picture is named and left out.
    """

    test_size: float
    path: str
    size: int | Sequence[int]
    colour: str

    def fetch_files(self) -> None:
        if not Path(self.path).is_dir():
            raise UserError(f"dataset.path={self.path}: expected a folder of images, and there is no such folder")
        paths = pictures(Path(self.path))
        if not paths:
            raise UserError(f"dataset.path={self.path}: expected a folder of images, and there is none in it")
        seen = hashlib.sha256(repr((pair(self.size), self.colour)).encode())
        for path in tqdm(paths, "looking", leave=False, disable=None):
            with suppress(OSError):  # decode will say why
                seen.update(hashlib.sha256(os.fsencode(path.relative_to(self.path))).digest())
                seen.update(hashlib.sha256(path.read_bytes()).digest())
        self.cache = Path(self.data_dir) / "folder" / f"{seen.hexdigest()[:32]}.npz"
        if content(self.cache) == "damaged":
            try:
                self.cache.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(self.cache.with_suffix(".lock")):
                    if content(self.cache) == "damaged":
                        self.read(paths)
            except OSError as error:
                raise UserError(f"data_dir: cannot write to {self.cache.parent}: {error.strerror or error}") from None
        with np.load(self.cache) as arrays:
            for line in arrays["skipped"]:
                log.warning(f"left out: {line}")
            if not len(arrays["pixels"]):
                raise UserError(f"dataset.path={self.path}: expected a folder of images, and none can be read")

    def read(self, paths: Sequence[Path]) -> None:
        """Decode the pictures and write the cache, whole or not at all."""
        size, mode = pair(self.size), MODES[self.colour]
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda path: decode(path, size, mode), paths)
            found = list(zip(paths, tqdm(decoded, "reading", len(paths), leave=False, disable=None), strict=True))
        pixels = [picture for _, picture in found if not isinstance(picture, str)]
        part = self.cache.with_suffix(".part.npz")
        try:
            np.savez(
                part,
                pixels=np.stack(pixels) if pixels else np.empty((0, *size, 1), np.uint8),
                names=np.array([self.name_of(path) for path, it in found if not isinstance(it, str)], str),
                skipped=np.array([f"{self.name_of(path)}: {it}" for path, it in found if isinstance(it, str)], str),
            )
            os.replace(part, self.cache)
        finally:
            part.unlink(missing_ok=True)

    def name_of(self, path: Path) -> str:
        """Its place in the folder, in letters that can be shown."""
        return os.fsencode(path.relative_to(self.path)).decode(errors="replace")

    def load(self) -> dict[str, Images]:
        with np.load(self.cache) as arrays:
            pixels, names = (
                torch.from_numpy(arrays["pixels"]).permute(0, 3, 1, 2).contiguous(),
                arrays["names"].tolist(),
            )
        folders = [Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in names]
        kinds = sorted(set(folders))
        labels = torch.tensor([kinds.index(folder) for folder in folders]) if len(kinds) > 1 else None
        return self.split_off(Images(pixels, labels, names), self.test_size)
