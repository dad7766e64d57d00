"""EMNIST: up to 814,255 handwritten letters and digits, 28 x 28 (Cohen et al. 2017)."""

import gzip
from dataclasses import dataclass
from functools import partial
from string import ascii_lowercase, ascii_uppercase, digits
from typing import ClassVar
from zipfile import ZipFile

from datamodules.base import Images
from datamodules.fetch import Source, download_files
from datamodules.mnist import IDXImages

MERGED = (*digits, *ascii_uppercase, *"abdefghnqrt")  # the other small letters look like their capitals
CLASSES = {
    "byclass": (*digits, *ascii_uppercase, *ascii_lowercase),
    "bymerge": MERGED,
    "balanced": MERGED,
    "letters": ("none", *ascii_lowercase),  # its labels start at 1
    "digits": tuple(digits),
    "mnist": tuple(digits),
}


@dataclass(eq=False)
class EMNIST(IDXImages):
    """The images of one of the six subsets in CLASSES, which have training and test images.

    `val_size` of the training images are for validation.
    """

    subset: str

    directory = "EMNIST"
    md5: ClassVar[dict[str, str]] = {"gzip.zip": "58c8d27c78d21e728a6bc7b3cc06412e"}
    sources: ClassVar[dict[str, Source]] = {
        "NIST": partial(download_files, "https://biometrics.nist.gov/cs_links/EMNIST/", md5)
    }

    def read(self) -> list[bytes]:
        with ZipFile(self.folder / "gzip.zip") as archive:
            return [
                gzip.decompress(archive.read(f"gzip/emnist-{self.subset}-{part}-{kind}-ubyte.gz"))
                for part in ("train", "test")
                for kind in ("images-idx3", "labels-idx1")
            ]

    def load(self) -> dict[str, Images]:
        splits = super().load().items()
        return {
            split: images._replace(pixels=images.pixels.mT.contiguous(), classes=CLASSES[self.subset])  # type: ignore[union-attr]
            for split, images in splits
        }
