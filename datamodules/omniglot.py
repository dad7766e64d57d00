"""Omniglot: 32,460 drawings of 1,623 characters of 50 alphabets, reduced to 28 x 28 (Lake et al. 2015)."""

from functools import partial
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image

from datamodules.base import ImageDataModule, Images
from datamodules.fetch import download_files, fetch
from datamodules.image_files import open_image
from datamodules.labels import number_labels

MD5 = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
ENLARGED = 420  # 4 * 105 and 15 * 28


def read_drawings(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the drawings in an archive, white on black, (N, 1, 28, 28), and their characters: alphabet/character.

    A pixel is the mean of its area in the drawing, which has 105 x 105 pixels.
    """
    drawings, characters = [], []
    with ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".png"):
                with archive.open(name) as file, open_image(file) as image:  # type: ignore[arg-type]
                    enlarged = image.convert("L").resize((ENLARGED, ENLARGED), Image.Resampling.NEAREST)
                drawings.append(255 - np.asarray(enlarged.reduce(15)))
                characters.append("/".join(PurePosixPath(name).parts[1:3]))
    return np.stack(drawings)[:, None], characters


class Omniglot(ImageDataModule):
    """19,280 drawings of 30 alphabets, `val_size` of them for validation, and 13,180 test drawings of 20 others.

    This is the split of Lake et al. That of Burda et al. (2016), 24,345 and 8,070 drawings of all alphabets, is known
    only by its file.
    """

    @property
    def folder(self) -> Path:
        return Path(self.data_dir) / "omniglot"

    def fetch_files(self) -> None:
        fetch(self.folder, MD5, {"its repository": partial(download_files, URL, MD5)})

    def load(self) -> dict[str, Images]:
        (train, characters), (test, test_characters) = (read_drawings(self.folder / name) for name in MD5)
        labels, classes = number_labels(characters + test_characters)
        train_labels, test_labels = labels.split([len(train), len(test)])
        images = Images(torch.from_numpy(train), train_labels, classes=classes)
        return self.split_off(images) | {"test": Images(torch.from_numpy(test), test_labels, classes=classes)}
