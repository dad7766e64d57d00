"""Kuzushiji-MNIST: 70,000 cursive Japanese characters, 28 x 28, in the file format of MNIST (Clanuwat et al. 2018)."""

from functools import partial
from typing import ClassVar

from datamodules.fetch import Source, download_files
from datamodules.mnist import IDXImages


class KMNIST(IDXImages):
    """60,000 training characters of ten kinds, `val_size` of them for validation, and 10,000 test characters."""

    directory = "KMNIST"
    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
    }
    sources: ClassVar[dict[str, Source]] = {
        "its page": partial(download_files, "http://codh.rois.ac.jp/kmnist/dataset/kmnist/", md5)
    }
