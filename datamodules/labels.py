"""Labels of images: numbers for names, one-hot rows, and a balanced choice of images."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor


def number_labels(names: Iterable[str]) -> tuple[Tensor, list[str]]:
    """Number labels given by name; return the numbers, (N,), and the names in natural order: 2 comes before 10."""

    def natural_order(name: str) -> list[tuple[int, str]]:
        # every second part is a number
        return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(re.split(r"([0-9]+)", name))]

    given = list(names)
    classes = sorted(set(given), key=lambda name: (natural_order(name), name))
    numbers = {name: i for i, name in enumerate(classes)}
    return torch.tensor([numbers[name] for name in given]), classes


def one_hot(labels: Tensor, n: int) -> Tensor:
    """Return labels from 0 to n - 1, (N,), as rows of zeros with a one, (N, n); -1 becomes a row of zeros.

    On a GPU it does not synchronise.
    """
    return torch.eye(n + 1, n, device=labels.device)[labels]


def balanced_rows(labels: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Return n random rows of labels, (N,), with equally many of each label, as far as they reach."""
    order = torch.randperm(len(labels), generator=rng)
    _, label = labels[order].unique(return_inverse=True)
    by_label = label.argsort(stable=True)
    counts = label.bincount()
    rank = torch.empty_like(label)  # of each row among those with its label
    rank[by_label] = torch.arange(len(label)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return order[rank.argsort(stable=True)[:n]]
