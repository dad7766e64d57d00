"""What all loops share: the data, the sizes and the output format.

Each epoch trains a network 784-500-20-500-784 with tanh on 55,000 digits, binarised at each use, in batches of 200,
with Adam and a learning rate of 1e-3. Then the ELBO is computed for 5,000 validation digits, with one z per image, and
after the last epoch for the 10,000 test digits. The images are the same for all loops, except that the loop with
torchvision splits the training digits differently.
"""

import os
import sys

import numpy as np

EPOCHS = int(os.environ["EPOCHS"])
BATCH, PIXELS, HIDDEN, LATENT_DIM, LR = 200, 784, 500, 20, 1e-3
DIGITS = np.load(os.environ["DIGITS"])  # "train": grey levels; "val" and "test": binarised by datamodules/mnist.py


def train() -> np.ndarray:
    """Return the training digits: (55000, 784), uint8."""
    return DIGITS["train"]


def val() -> np.ndarray:
    """Return the validation digits: (5000, 784), float32, 0 or 1."""
    return DIGITS["val"].astype(np.float32)


def test() -> np.ndarray:
    """Return the test digits: (10000, 784), float32, 0 or 1."""
    return DIGITS["test"].astype(np.float32)


def report_epoch(epoch: int, elbo: float) -> None:
    """Print the epoch and its validation ELBO for benchmarks/speed.py, which may pause the process here."""
    print(f"epoch {epoch} {elbo:.2f}", flush=True)


def report_test(elbo: float) -> None:
    """Print the test ELBO and exit."""
    print(f"test {elbo:.2f}", flush=True)
    sys.exit()
