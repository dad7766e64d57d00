"""Read the metrics and checkpoints of a run."""

import csv

import torch

from vae.config.schema import CONF

ROOT = CONF.parent


def read_metrics(folder):
    """The rows of metrics.csv, each without its empty cells."""
    with (folder / "metrics.csv").open() as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def without_times(folder):
    """The rows of metrics.csv with the columns that depend on the clock set to 0."""
    return [row | {"images_per_second": 0, "seconds": 0} for row in read_metrics(folder)]


def load_checkpoint(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def load_weights(folder, name="last"):
    return load_checkpoint(folder, name)["state_dict"]


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
