"""CelebA: 202,599 photographs of faces of celebrities, cropped and reduced to 64 x 64, in colour (Liu et al. 2015)."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from tqdm.auto import tqdm

from datamodules.base import ImageDataModule, Images
from datamodules.fetch import fetch
from datamodules.image_files import open_image
from vae.errors import UserError

ARCHIVE, PARTITION = "img_align_celeba.zip", "list_eval_partition.txt"
MD5 = {ARCHIVE: "00d2c5bc6d35e252742224ab0c1e8fcb", PARTITION: "d32c9cbf5e040fd4025c592c306e6668"}
GOOGLE_DRIVE = {ARCHIVE: "0B7EVK8r0v71pZjFTYXZWM3FlRnM", PARTITION: "0B7EVK8r0v71pY0NSMzRuSXJEVkk"}
FACE = 15, 35, 163, 183  # left, top, right, bottom of the 148 x 148 in the centre of 178 x 218
SIZE = 64


def google_drive(folder: Path) -> None:
    """Download the files from Google Drive. Raises RuntimeError if gdown is not installed or if this fails."""
    from torchvision.datasets.utils import download_file_from_google_drive

    for name, identifier in GOOGLE_DRIVE.items():
        download_file_from_google_drive(identifier, folder, name, MD5[name])


@dataclass(eq=False)
class CelebA(ImageDataModule):
    """162,770 training, 19,867 validation and 19,962 test photographs. No person is in two splits.

    They are decoded once, to `data_dir`/celeba/faces.npy, 2.5 GB.
    """

    val_size: float = field(init=False, default=0)

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "celeba"

    def fetch_files(self) -> None:
        if not (self.folder / "faces.npy").exists():
            fetch(self.folder, MD5, {"Google Drive": google_drive})
            try:
                with FileLock(self.folder / "faces.lock"):
                    if not (self.folder / "faces.npy").exists():
                        self.write_faces()
            except OSError as error:
                raise UserError(f"data_dir: cannot write to {self.folder}: {error.strerror or error}") from None

    def read_partition(self) -> tuple[list[str], np.ndarray]:
        """Return the names of the photographs, and their splits: 0 (training), 1 (validation) or 2 (test)."""
        names, splits = zip(*map(str.split, (self.folder / PARTITION).read_text().splitlines()), strict=True)
        return list(names), np.array(splits).astype(int)

    def write_faces(self) -> None:
        """Decode the photographs in the order of the partition: (N, 3, 64, 64)."""
        names, _ = self.read_partition()
        part = self.folder / "faces.part"
        faces = np.lib.format.open_memmap(part, "w+", np.uint8, (len(names), 3, SIZE, SIZE))
        with ZipFile(self.folder / ARCHIVE) as archive, ThreadPoolExecutor() as pool:

            def decode(name: str) -> np.ndarray:
                with archive.open(f"img_align_celeba/{name}") as file, open_image(file) as image:  # type: ignore[arg-type]
                    face = image.convert("RGB").crop(FACE).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                return np.asarray(face).transpose(2, 0, 1)

            for i, face in enumerate(tqdm(pool.map(decode, names), "decoding images", len(names), disable=None)):
                faces[i] = face
        faces.flush()
        part.replace(self.folder / "faces.npy")

    def load(self) -> dict[str, Images]:
        faces = np.load(self.folder / "faces.npy", mmap_mode="r")
        _, splits = self.read_partition()
        return {
            name: Images(torch.from_numpy(faces[splits == split]))
            for split, name in enumerate(("train", "val", "test"))
        }
