"""Emoji: the 1911 pictures of Twemoji, from the npm package emoji-datasource-twitter."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.augmentation import flip
from datamodules.base import ImageDataModule, Images, height_and_width
from datamodules.fetch import fetch, npm_sources, npz_checksum
from datamodules.labels import number_labels

PACKAGE = "emoji-datasource-twitter@16.0.0"
ARCHIVE = "emoji-datasource-twitter-16.0.0.tgz"
ARCHIVE_SHA256 = "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
SHA256 = "fffc2483609e91dc35067f20806d0a93df3016f32f088388214b246ea0be86ed"  # of the arrays in emoji.npz
PICTURES, TABLE = "img/twitter/64/", "emoji.json"
MEMBERS = [f"package/{name}" for name in (PICTURES, TABLE)]


def write_npz(package: Path, folder: Path) -> None:
    """Write emoji.npz in `folder` from the files of the package: RGBA, 64 x 64, in the order of emoji keyboards."""
    from datamodules.image_files import open_image

    def rgba(path: Path) -> np.ndarray:
        with open_image(path) as image:
            return np.asarray(image.convert("RGBA"))

    entries = sorted(json.loads((package / TABLE).read_text()), key=lambda entry: entry["sort_order"])
    np.savez_compressed(
        folder / "emoji.npz",
        pixels=np.stack([rgba(package / PICTURES / entry["image"]) for entry in entries]),
        names=np.array([entry["short_name"] for entry in entries]),
        categories=np.array([entry["category"] for entry in entries]),
    )


def on_white(rgba: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Return RGBA pictures, (N, H, W, 4), on white, scaled to `size`: (N, 3, *size), uint8."""
    colour, alpha = torch.from_numpy(rgba).permute(0, 3, 1, 2).float().split([3, 1], 1)
    pictures = 255 + (colour - 255) * alpha / 255
    if pictures.shape[2:] != size:
        pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True)
    return pictures.round().byte()


@dataclass(eq=False)
class Emoji(ImageDataModule):
    """1911 colour pictures on white, without those in other skin tones. Labels are their categories.

    Pictures are scaled to `size` (one number, or [height, width]). Each time a training image is used, it is mirrored
    with probability 1/2 if `flips`.
    """

    test_size: float
    size: int | Sequence[int]
    flips: bool

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "emoji"

    def fetch_files(self) -> None:
        fetch(
            self.folder,
            {"emoji.npz": SHA256},
            npm_sources(PACKAGE, self.folder / ARCHIVE, ARCHIVE_SHA256, MEMBERS, write_npz),
            npz_checksum,
            manual_files=[f"{self.folder / ARCHIVE}  (sha256 {ARCHIVE_SHA256})"],
        )

    def load(self) -> dict[str, Images]:
        with np.load(self.folder / "emoji.npz") as arrays:
            pixels, names, categories = (arrays[name] for name in arrays.files)
        labels, classes = number_labels(categories.tolist())
        return self.split_off(
            Images(on_white(pixels, height_and_width(self.size)), labels, names.tolist(), classes), self.test_size
        )

    def augment(self, pixels: Tensor, rng: torch.Generator) -> Tensor:
        return flip(pixels, rng) if self.flips else pixels
