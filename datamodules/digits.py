"""scikit-learn's digits: 1797 images of 8 x 8 pixels with 17 grey levels (Alpaydin & Kaynak 1998)."""

from dataclasses import dataclass

import torch

from datamodules.base import ImageDataModule, Images


@dataclass(eq=False)
class Digits(ImageDataModule):
    """1797 digits, `val_size` of them for validation and `test_size` for the test. No download is needed."""

    test_size: float

    def load(self) -> dict[str, Images]:
        from sklearn.datasets import load_digits

        grey, labels = load_digits(return_X_y=True)
        pixels = torch.from_numpy(grey).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
        return self.split_off(Images(pixels, torch.from_numpy(labels)), self.test_size)
