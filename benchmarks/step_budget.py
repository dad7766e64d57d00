"""Measure the parts of one compiled training step of the default model: python benchmarks/step_budget.py.

The parts take turns in one process; each figure is a median over rounds. The whole step is that of train.py. Writes
docs/tables/step_budget.md.
"""

import statistics
import time
from collections.abc import Callable
from itertools import repeat

import torch
from batched_models import SHAPE, build_vae
from costs import seconds_per_image
from doc_tables import describe_machine, markdown_table, write_times
from torch import Tensor, nn

from datamodules.loaders import EpochLoader
from datamodules.pixels import BINARIZE
from vae.acceleration.compilation import CompiledStep
from vae.acceleration.torch_settings import configure_torch

HIDDEN, BATCH = 500, 200
TRAIN_IMAGES, VAL_IMAGES = 55_000, 5_000
STEPS, ROUNDS = 50, 6  # the first round is a warm-up
HEADER = ["part of a step", "us", "of the whole step"]


class Loss(nn.Module):
    """Minus the mean ELBO of images, with the sums of the metrics that train.py records."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = build_vae(HIDDEN)

    def forward(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        terms = self.vae.terms(x)
        metrics = torch.stack([terms.elbo, terms.kl, terms.log_likelihood, weight * terms.elbo])
        return -metrics[-1].mean(), metrics.detach().sum(1)


def matrix_products(loss: Loss) -> Callable[[], object]:
    """Return a function that computes the products of the forward and the backward pass."""
    weights = [parameter.detach() for parameter in loss.parameters() if parameter.ndim == 2]
    pairs: list[tuple[Tensor, Tensor]] = []
    for i, W in enumerate(weights):
        inputs, gradients = torch.rand(BATCH, W.shape[1]), torch.rand(BATCH, W.shape[0])
        pairs += [(inputs, W.T), (gradients.T, inputs), *([(gradients, W)] if i else [])]
    results = [torch.mm(*pair) for pair in pairs]
    return lambda: [torch.mm(*pair, out=result) for pair, result in zip(pairs, results, strict=True)]


def parts() -> dict[str, Callable[[], object]]:
    """Return a function that computes each part once."""
    loss, pixels = Loss(), torch.randint(256, (TRAIN_IMAGES, *SHAPE), dtype=torch.uint8)
    x, optimizer = torch.rand(BATCH, *SHAPE).round(), torch.optim.Adam(loss.parameters(), fused=True)
    compiled = CompiledStep(loss, x)
    compiled.forward_backward(x, 1.0)  # Adam needs gradients
    loader = EpochLoader(pixels, BATCH, BINARIZE["dynamic"][0], 0, lambda: 0)
    batches = (batch for epoch in repeat(loader) for chunk in epoch for batch in chunk)
    return {
        "matrix products": matrix_products(loss),
        "forward and backward": lambda: compiled.forward_backward(x, 1.0),
        "Adam": optimizer.step,
        "images": lambda: next(batches),
        "validation": torch.no_grad()(lambda: loss(x, torch.ones(()))),
    }


def measure(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of one call of each function. They take turns of STEPS calls."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                function()
            seconds[name].append((time.perf_counter() - start) / STEPS)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def budget(measured: dict[str, float], step: float) -> list[list[str]]:
    """Return the rows of the table. `step` are the seconds of a step of train.py, without validation."""
    products, both, adam, images, validation = measured.values()
    parts = {
        "matrix products, forward and backward": products,
        "activations, likelihood, KL and noise, forward and backward": both - products,
        "Adam": adam,
        "images: shuffled and made binary": images,
        "Lightning, metrics, logging, Python": step - both - adam - images,
        "the whole step": step,
        "validation, divided by the steps of an epoch": validation * VAL_IMAGES / TRAIN_IMAGES,
    }
    return [[name, f"{1e6 * seconds:.0f}", f"{seconds / step:.0%}"] for name, seconds in parts.items()]


def main() -> None:
    configure_torch()
    measured = measure(parts())
    rows = budget(measured, BATCH * seconds_per_image("compile=true"))
    print(write_times("step_budget", markdown_table(HEADER, rows), describe_machine()))


if __name__ == "__main__":
    main()
