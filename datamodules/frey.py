"""Frey faces: 1965 frames of 28 x 20 of a video of Brendan Frey's face (Roweis & Ghahramani)."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.base import ImageDataModule, Images
from datamodules.fetch import content, download, fetch, set_aside

SHA256 = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"  # of the (1965, 560) bytes

COMMIT = "jmtomczak/vae_vampprior{}bb6ff3e58036adbea448e82d7bc55593d605b52c/datasets/Freyfaces/freyfaces.pkl"
URLS = {
    "GitHub": "https://raw.githubusercontent.com/" + COMMIT.format("/"),
    "jsDelivr": "https://cdn.jsdelivr.net/gh/" + COMMIT.format("@"),
    "Roweis's page": "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
}


class Pickled:
    """What stands for an array while its pickle is read: it keeps the array's shape and bytes, and does no more."""

    def __init__(self, *_args: Any) -> None:
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class ArraysOnly(pickle.Unpickler):
    """Refuses every name a pickle could ask for but the three a pickled array has, and stands in for these."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in {"numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"}:
            raise pickle.UnpicklingError(f"it wants {module}.{name}")
        return Pickled


def from_pickle(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        (faces,) = ArraysOnly(file, encoding="latin1").load()
    _version, shape, _dtype, _fortran, pixels = faces.state
    return np.frombuffer(pixels.encode("latin1"), np.uint8).reshape(shape)


def from_mat(path: Path) -> np.ndarray:
    from scipy.io import loadmat

    return loadmat(path)["ff"].T


READERS: dict[str, Callable[[Path], np.ndarray]] = {"freyfaces.pkl": from_pickle, "frey_rawface.mat": from_mat}


def decode(path: Path, folder: Path) -> None:
    """Make frey.npz of one of the two files the faces are handed round in; RuntimeError if it is not whole."""
    try:
        faces = READERS[path.name](path)
    except Exception as error:
        if isinstance(error, ImportError | MemoryError) or getattr(error, "errno", None):
            raise  # it may well be whole
        raise RuntimeError(f"{path.name} cannot be read: {error}") from None
    np.savez_compressed(folder / "frey.npz", faces=np.ascontiguousarray(faces))


def remote(url: str, folder: Path) -> None:
    path = folder / Path(url).name
    download(url, path)
    decode(path, folder)


def by_hand(places: list[Path], folder: Path) -> None:
    """A file that somebody put there; a damaged one is set aside."""
    found = [place / name for place in places for name in READERS if (place / name).is_file()]
    for path in found:
        with suppress(RuntimeError):
            decode(path, folder)
        if content(folder / "frey.npz") == SHA256:
            return
        set_aside(path)
    raise RuntimeError(f"{' and '.join(map(str, found))} damaged" if found else "none")


@dataclass(eq=False)
class Frey(ImageDataModule):
    """1965 faces, `val_size` and `test_size` of them held out; kept in `data_dir`/frey.

    `split` is "random", as in the literature, where most test faces have a neighbour in time among the training ones;
    or "sequential": training, validation and test faces in the order of the video.
    """

    test_size: float
    split: str

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "frey"

    def fetch_files(self) -> None:
        places = [self.folder, self.folder.parent]
        fetch(
            self.folder,
            {"frey.npz": SHA256},
            {"files put there by hand": partial(by_hand, places)}
            | {name: partial(remote, url) for name, url in URLS.items()},
            content,
            by_hand=[" or ".join(str(self.folder / name) for name in READERS)],
        )

    def load(self) -> dict[str, Images]:
        with np.load(self.folder / "frey.npz") as arrays:
            faces = Images(torch.from_numpy(arrays["faces"]).view(-1, 1, 28, 20))
        return self.split_off(faces, self.test_size, in_order=self.split == "sequential")
