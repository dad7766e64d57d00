"""The work of every loop: 55,000 digits a pass in batches of 200, made binary anew; 784-500-20-500-784, tanh.

Adam, with a learning rate of 1e-3. After each pass the ELBO, one z an image, of 5,000 other digits; after the last, of
the 10,000 test digits. All are the same for all, but that torchvision's loop splits the training digits in its own way.
"""

import os
import sys

import numpy as np

EPOCHS = int(os.environ["EPOCHS"])
BATCH, PIXELS, HIDDEN, CODES, RATE = 200, 784, 500, 20, 1e-3
DIGITS = np.load(os.environ["DIGITS"])  # of datamodules/mnist.py: "train" grey, "val" and "test" made binary


def train() -> np.ndarray:
    """(55000, 784), uint8."""
    return DIGITS["train"]


def val() -> np.ndarray:
    """(5000, 784), float32."""
    return DIGITS["val"].astype(np.float32)


def test() -> np.ndarray:
    """(10000, 784), float32."""
    return DIGITS["test"].astype(np.float32)


def passed(epoch: int, elbo: float) -> None:
    """Say that a pass is over; what runs the loops side by side takes the time, and may hold this one here."""
    print(f"epoch {epoch} {elbo:.2f}", flush=True)


def finished(elbo: float) -> None:
    """Say what the test digits gave."""
    print(f"test {elbo:.2f}", flush=True)
    sys.exit()
