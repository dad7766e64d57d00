"""A folder of image files, decoded once; the pixels are cached as one array."""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from datamodules.base import ImageDataModule, Images, height_and_width
from datamodules.fetch import npz_checksum
from datamodules.image_files import decode_image
from datamodules.labels import number_labels
from vae.errors import UserError
from vae.terminal import is_visible

log = logging.getLogger(__name__)

MODES = {"grey": "L", "rgb": "RGB"}  # dataset.colour: Pillow's mode
SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".gif", ".webp", ".avif"),
    *(".bmp", ".tif", ".tiff", ".tga", ".pgm", ".ppm", ".pbm", ".pnm"),
}


def find_images(folder: Path) -> list[Path]:
    """Return the sorted paths of all image files in a folder and its subfolders, by suffix; links are followed.

    Hidden files and folders, and the __MACOSX folders of zip archives, are ignored.
    """
    found, visited = [], set()
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in visited:  # a link back to a parent folder
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__MACOSX"))]
        images = [name for name in files if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")]
        found += [Path(directory, name) for name in images]
    return sorted(path for path in found if path.is_file() or path.is_symlink())


@dataclass(eq=False)
class Folder(ImageDataModule):
    """Images of a folder and its subfolders, `val_size` of them for validation and `test_size` for the test.

    Each is centre-cropped to the aspect ratio of `size` (one number, or [height, width]) and scaled to it. `colour` is
    "rgb" or "grey". If the folder has subfolders, the subfolder of an image is its label ("." for none). The pixels are
    cached in `data_dir`/folder until an image changes. A file that cannot be read is skipped with a warning.
    """

    test_size: float
    path: str
    size: int | Sequence[int]
    colour: str

    def fetch_files(self) -> None:
        if not Path(self.path).is_dir():
            raise UserError(f"dataset.path={self.path}: expected a folder of images; this folder does not exist")
        paths = find_images(Path(self.path))
        if not paths:
            raise UserError(f"dataset.path={self.path}: expected a folder of images; this folder contains no image")
        key = hashlib.sha256(repr((height_and_width(self.size), self.colour)).encode())
        for path in tqdm(paths, "hashing images", leave=False, disable=None):
            with suppress(OSError):  # decode_image reports the error
                key.update(hashlib.sha256(os.fsencode(path.relative_to(self.path))).digest())
                key.update(hashlib.sha256(path.read_bytes()).digest())
        self.cache = Path(self.data_dir) / "folder" / f"{key.hexdigest()[:32]}.npz"
        if npz_checksum(self.cache) == "damaged":
            try:
                self.cache.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(self.cache.with_suffix(".lock")):
                    if npz_checksum(self.cache) == "damaged":
                        self.write_cache(paths)
            except OSError as error:
                raise UserError(f"data_dir: cannot write to {self.cache.parent}: {error.strerror or error}") from None
        with np.load(self.cache) as arrays:
            for line in arrays["skipped"]:
                log.warning(f"skipped {line}")
            if not len(arrays["pixels"]):
                raise UserError(f"dataset.path={self.path}: expected a folder of images; none of them can be read")

    def write_cache(self, paths: Sequence[Path]) -> None:
        """Decode the images and write the cache atomically."""
        size, mode = height_and_width(self.size), MODES[self.colour]
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda path: decode_image(path, size, mode), paths)
            progress = tqdm(decoded, "decoding images", len(paths), leave=False, disable=None)
            results = list(zip(map(self.display_name, paths), progress, strict=True))
        pixels = [result for _, result in results if not isinstance(result, str)]
        part = self.cache.with_suffix(".part.npz")
        try:
            np.savez(
                part,
                pixels=np.stack(pixels) if pixels else np.empty((0, *size, 1), np.uint8),
                names=np.array([name for name, result in results if not isinstance(result, str)], str),
                skipped=np.array([f"{name}: {result}" for name, result in results if isinstance(result, str)], str),
            )
            os.replace(part, self.cache)
        finally:
            part.unlink(missing_ok=True)

    def display_name(self, path: Path) -> str:
        """Return the path relative to the folder; control characters and bytes that are not UTF-8 are replaced."""
        name = os.fsencode(path.relative_to(self.path)).decode(errors="replace")
        return "".join(letter if is_visible(letter) else "\N{REPLACEMENT CHARACTER}" for letter in name)

    def load(self) -> dict[str, Images]:
        with np.load(self.cache) as arrays:
            pixels = torch.from_numpy(arrays["pixels"]).permute(0, 3, 1, 2).contiguous()
            names = arrays["names"].tolist()
        labels, classes = number_labels(Path(name).parts[0] if len(Path(name).parts) > 1 else "." for name in names)
        images = Images(pixels, labels, names, classes) if len(classes) > 1 else Images(pixels, None, names)
        return self.split_off(images, self.test_size)
