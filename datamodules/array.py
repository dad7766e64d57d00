"""Images or vectors of an array in a file: .npy, .npz, .pt or HDF5."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.base import ImageDataModule, Images
from datamodules.labels import number_labels
from datamodules.pixels import to_levels
from datamodules.stored import StoredPixels, open_npy, read_rows
from vae.errors import UserError

log = logging.getLogger(__name__)

# What the axes of an array are, and how it is brought to (N, C, H, W).
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ND": lambda x: x[:, None, None, :],
    "NHW": lambda x: x[:, None],
    "NHWC": lambda x: x.transpose(0, 3, 1, 2),
    "NCHW": lambda x: x,
}
CHANNELS = (1, 3)  # of pictures
SAMPLE_ROWS = 1000  # of an array that stays in its file, which tell what its values are
MAX_EVAL_IMAGES = 10_000  # for validation and for the test, unless their sizes are given
READ_ERRORS = (ValueError, EOFError, RuntimeError, TypeError, UnpicklingError, BadZipFile, OSError)


def open_pt(path: Path) -> Any:
    """Return the tensor in a file of torch.save, or a dict of tensors, as memory-mapped arrays."""
    content = torch.load(path, mmap=True, weights_only=True, map_location="cpu")
    return {name: x.numpy() for name, x in content.items()} if isinstance(content, dict) else content.numpy()


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file. Raises UserError if h5py is not installed."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"dataset.path={path}: needs h5py: pip install h5py") from None
    return h5py.File(path)


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": open_npy,
    ".npz": np.load,
    ".pt": open_pt,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
}


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Open a file of arrays: an array, or a mapping from names to arrays. It is read when rows are taken.

    Raises UserError if the file cannot be read.
    """
    if path.suffix not in READERS:
        raise UserError(f"dataset.path={path}: expected a file with one of the suffixes {', '.join(READERS)}")
    with ExitStack() as stack:
        try:
            content = READERS[path.suffix](path)
            if hasattr(content, "close"):
                stack.callback(content.close)
        except READ_ERRORS as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else f"{' '.join(str(error).split())}"
            raise UserError(f"dataset.path={path}: cannot be read: {reason}") from None
        yield content


def select_array(content: Any, key: str, source: str) -> Any:
    """Return an array of a file, or the only one it has. Raises UserError if no array has this name."""
    if not isinstance(content, Mapping):
        return content
    try:
        found = content[key]
    except (KeyError, ValueError) as error:
        reason = f"expected one of {', '.join(content)}" if key not in content else str(error)
        raise UserError(f"{source}: {reason}") from None
    if not hasattr(found, "dtype"):
        raise UserError(f"{source}: expected the name of an array, not of a group")
    return found


@contextmanager
def open_array(path: Path, key: str) -> Iterator[Any]:
    """Open the array `key` of a file. Raises UserError if this fails."""
    with open_file(path) as content:
        yield select_array(content, key, f"dataset.key={key}")


def choose_layout(shape: tuple[int, ...], path: str) -> str:
    """Return the layout of an array with this shape. Raises UserError if it is not clear."""
    if len(shape) in (2, 3):
        return {2: "ND", 3: "NHW"}[len(shape)]
    if len(shape) != 4:
        raise UserError(f"dataset.path={path}: its array has the shape {shape}; expected 2 to 4 dimensions")
    clear = [layout for layout, axis in (("NHWC", 3), ("NCHW", 1)) if shape[axis] in CHANNELS]
    if len(clear) != 1:
        raise UserError(f"dataset.layout: not clear from the shape {shape} of {path}; expected NHWC or NCHW")
    return clear[0]


def is_binary(values: np.ndarray) -> bool:
    """Return whether all values are 0 or 1."""
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # takes no memory
        return False
    return bool(((values == 0) | (values == 1)).all())


def to_bool(values: np.ndarray, path: str) -> np.ndarray:
    """Convert zeros and ones to bool. Raises UserError for other values."""
    if not is_binary(values):
        limits = "[0,255]" if values.dtype.kind in "iu" else "[0,1]"
        raise UserError(f"dataset.range: {path} has other values than 0 and 1; expected dataset.range={limits}")
    return values.astype(bool)


def to_bytes(values: np.ndarray, path: str) -> np.ndarray:
    """Convert whole numbers from 0 to 255 to uint8. Raises UserError for others."""
    return check_range(values, 0, 255, path).astype(np.uint8, copy=False)


def to_unit(values: np.ndarray, path: str, low: float, high: float) -> np.ndarray:
    """Map values from [low, high] to float in [0, 1]. Raises UserError for others."""
    scaled = (check_range(values, low, high, path).astype(np.float32) - low) / (high - low)
    return scaled.astype(np.float32).clip(0, 1)


def check_range(values: np.ndarray, low: float, high: float, path: str) -> np.ndarray:
    """Return the values. Raises UserError unless they are from `low` to `high`."""
    if values.size and not (values.min() >= low and values.max() <= high):
        found = f"has values from {values.min():g} to {values.max():g}"
        raise UserError(
            f"dataset.range=[{low:g},{high:g}]: {path} {found}; expected a range [low,high] with all of them"
        )
    return values


def choose_conversion(values: np.ndarray, limits: Sequence[float] | None, path: str) -> Callable[..., np.ndarray]:
    """Return the function that converts values like these: 0 and 1 to bool, others to uint8, or to float in [0, 1].

    Raises UserError if they are not numbers.
    """
    if values.dtype.kind not in "buif":
        raise UserError(f"dataset.path={path}: its values are of the type {values.dtype}; expected numbers")
    if limits is None and is_binary(values):
        return partial(to_bool, path=path)
    low, high = limits or ([0, 1] if values.dtype.kind == "f" else [0, 255])
    if values.dtype.kind in "iu" and (low, high) == (0, 255):
        return partial(to_bytes, path=path)
    return partial(to_unit, path=path, low=low, high=high)


def to_labels(values: Any, n: int, source: str) -> tuple[Tensor, list[str] | None]:
    """Return n labels as whole numbers, and their names if they have names. Raises UserError for others."""
    labels = np.asarray(values)
    if labels.shape not in ((n,), (n, 1)):
        raise UserError(f"{source}: labels of the shape {labels.shape}; expected one for each of the {n} images")
    labels = labels.reshape(n)
    if labels.dtype.kind in "OSU":
        return number_labels(map(str, labels.tolist()))
    if labels.dtype.kind not in "buif" or not (labels == np.round(labels)).all():
        raise UserError(f"{source}: expected whole numbers or names as labels")
    return torch.from_numpy(labels.astype(np.int64)), None


@dataclass(eq=False)
class Array(ImageDataModule):
    """An array of images or vectors, `val_size` of them for validation and `test_size` for the test.

    None as a size is a tenth, at most MAX_EVAL_IMAGES. `key` names the array in a file with several. `labels` is the
    name of the labels in it or a .npy file; None is y, if there is one. `layout` is one of LAYOUTS; None is the one
    that the shape makes clear. `range`, [low, high], is mapped to [0, 1]; None is [0, 255] for whole numbers, and
    [0, 1] for others. An array of more than `max_memory` GB stays in its file: training reads it in parts.
    """

    val_size: float | None  # type: ignore[assignment]
    test_size: float | None
    path: str
    key: str
    labels: str | None
    layout: str | None
    range: Sequence[float] | None
    max_memory: float

    def load(self) -> dict[str, Images]:
        path = Path(self.path)
        with open_array(path, self.key) as array:
            layout = self.layout or choose_layout(array.shape, self.path)
            if len(array.shape) != len(layout) or not array.nbytes:
                expected = f"expected {len(layout)} dimensions, none of them empty"
                raise UserError(f"dataset.layout={layout}: {path} has the shape {array.shape}; {expected}")
            n, gigabytes = len(array), array.nbytes / 1e9
            stored = gigabytes > self.max_memory
            if stored:
                self.check_stored(f"dataset.max_memory={self.max_memory:g}: {path} has {gigabytes:.1f} GB")
            if stored:
                select = partial(read_rows, array)
                sample = select(np.linspace(0, n - 1, SAMPLE_ROWS).astype(int))
            else:
                sample = array[:]
                select = sample.__getitem__
            conversion = choose_conversion(sample, self.range, self.path)

            def convert(values: np.ndarray) -> Tensor:
                pixels = torch.from_numpy(np.ascontiguousarray(LAYOUTS[layout](conversion(values))))
                return pixels if self.binarize == "none" else to_levels(pixels)

            labels, classes = self.read_labels(n)
            default = max(2, min(MAX_EVAL_IMAGES, n // 10))
            self.val_size, test_size = self.val_size or default, self.test_size or default
            splits = {}
            for split, rows in self.split_rows(n, test_size).items():
                if stored and split == "train":
                    rows = rows.sort().values
                    pixels: Any = StoredPixels(partial(open_array, path, self.key), convert, rows)
                else:
                    pixels = convert(select(rows.numpy()))
                splits[split] = Images(pixels, None if labels is None else labels[rows], classes=classes)
        kind, where = str(pixels.dtype).removeprefix("torch."), "read from the file" if stored else "in memory"
        log.info(f"{path}: {tuple(array.shape)}, layout {layout}, {kind}, {where}")
        return splits

    @property
    def has_pictures(self) -> bool:
        return self.shape[0] in CHANNELS and self.shape[:2] != (1, 1)

    def check_stored(self, size: str) -> None:
        """Raise UserError if an array that does not fit in memory cannot be read from its file."""
        if Path(self.path).suffix == ".npz":
            raise UserError(f"{size}, and a .npz file is read as a whole; expected a larger value, or a .npy file")
        if self.binarize in ("static", "threshold"):
            raise UserError(f"{size}; expected dataset.binarize=dynamic or none, or a larger dataset.max_memory")

    def read_labels(self, n: int) -> tuple[Tensor | None, list[str] | None]:
        """Return the labels, (n,), and their names, if there are any."""
        file = Path(self.path if self.labels is None or Path(self.labels).suffix != ".npy" else self.labels)
        source = f"dataset.labels={self.labels}"
        with open_file(file) as content:
            if self.labels is None and not (isinstance(content, Mapping) and "y" in content):
                return None, None
            if file == Path(self.path) and not isinstance(content, Mapping):
                raise UserError(f"{source}: {file} has only one array; expected a .npy file with the labels")
            return to_labels(select_array(content, self.labels or "y", source), n, source)


def save_images(images: Any, labels: Any = None, data_dir: str = "data") -> list[str]:
    """Write images, and labels if there are any, to a file in `data_dir`/array; return the overrides that train on it.

    `images` is an array, a tensor, or a torch Dataset of images or of pairs (image, label).
    """
    if isinstance(images, Dataset):
        items: Any = [images[i] for i in range(len(images))]  # type: ignore[arg-type]
        if isinstance(items[0], tuple | list):
            items, labels = zip(*(item[:2] for item in items), strict=True)
        images = np.stack([np.asarray(item) for item in items])
    arrays = {"x": np.asarray(images)} | ({} if labels is None else {"y": np.asarray(labels)})
    content = hashlib.sha256()
    for name, array in arrays.items():
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    paths = {name: Path(data_dir, "array", f"{content.hexdigest()[:32]}.{name}.npy").resolve() for name in arrays}
    for name, path in paths.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            with part.open("wb") as file:
                np.save(file, arrays[name], allow_pickle=False)
            part.replace(path)
    keys = {"x": "dataset.path", "y": "dataset.labels"}
    quoted = {name: str(path).replace("\\", "\\\\").replace("'", "\\'") for name, path in paths.items()}
    return ["dataset=array", *(f"{keys[name]}='{quoted[name]}'" for name in arrays)]
