"""Frey faces: 1965 frames, 28 x 20, of a video of Brendan Frey's face (Roweis & Ghahramani)."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from datamodules.base import ImageDataModule, Images
from datamodules.fetch import download, fetch, npz_checksum, rename_damaged
from datamodules.pickled import load_pickle

SHA256 = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"  # of the (1965, 560) bytes

COMMIT = "jmtomczak/vae_vampprior{}bb6ff3e58036adbea448e82d7bc55593d605b52c/datasets/Freyfaces/freyfaces.pkl"
URLS = {
    "GitHub": "https://raw.githubusercontent.com/" + COMMIT.format("/"),
    "jsDelivr": "https://cdn.jsdelivr.net/gh/" + COMMIT.format("@"),
    "Roweis's page": "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
}


def read_pickle(path: Path) -> np.ndarray:
    """Read the faces, (1965, 560), uint8, from a pickle of Python 2."""
    with path.open("rb") as file:
        (faces,) = load_pickle(file)
    return faces.array()


def read_mat(path: Path) -> np.ndarray:
    """Read the faces, (1965, 560), uint8, from a MATLAB file."""
    from scipy.io import loadmat

    return loadmat(path)["ff"].T


READERS: dict[str, Callable[[Path], np.ndarray]] = {"freyfaces.pkl": read_pickle, "frey_rawface.mat": read_mat}


def convert(path: Path, folder: Path) -> None:
    """Convert a file in one of the two published formats to frey.npz in `folder`.

    Raises RuntimeError if the file is damaged.
    """
    try:
        faces = READERS[path.name](path)
    except Exception as error:
        if isinstance(error, ImportError | MemoryError) or getattr(error, "errno", None):
            raise  # not a sign of a damaged file
        raise RuntimeError(f"cannot read {path.name}: {error}") from None
    np.savez_compressed(folder / "frey.npz", faces=np.ascontiguousarray(faces))


def download_faces(url: str, folder: Path) -> None:
    """Download a file of faces and convert it to frey.npz in `folder`."""
    path = folder / Path(url).name
    download(url, path)
    convert(path, folder)


def convert_manual_file(directories: list[Path], folder: Path) -> None:
    """Convert a file that the user put into one of the directories to frey.npz in `folder`.

    Renames damaged files. Raises RuntimeError if no valid file is found.
    """
    found = [directory / name for directory in directories for name in READERS if (directory / name).is_file()]
    for path in found:
        with suppress(RuntimeError):
            convert(path, folder)
        if npz_checksum(folder / "frey.npz") == SHA256:
            return
        rename_damaged(path)
    raise RuntimeError(f"{' and '.join(map(str, found))} damaged" if found else "none found")


@dataclass(eq=False)
class Frey(ImageDataModule):
    """1965 faces, `val_size` of them for validation and `test_size` for the test, stored in `data_dir`/frey.

    `split` is "random", as in the literature, so that most test faces are neighbours in time of a training face; or
    "sequential": training, validation and test faces follow each other in the video.
    """

    test_size: float
    split: str

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "frey"

    def fetch_files(self) -> None:
        fetch(
            self.folder,
            {"frey.npz": SHA256},
            {"manually added files": partial(convert_manual_file, [self.folder, self.folder.parent])}
            | {name: partial(download_faces, url) for name, url in URLS.items()},
            npz_checksum,
            manual_files=[" or ".join(str(self.folder / name) for name in READERS)],
        )

    def load(self) -> dict[str, Images]:
        with np.load(self.folder / "frey.npz") as arrays:
            faces = Images(torch.from_numpy(arrays["faces"]).view(-1, 1, 28, 20))
        return self.split_off(faces, self.test_size, in_order=self.split == "sequential")
