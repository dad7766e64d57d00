"""Time training several models as one batched model: python benchmarks/batched_models.py.

An experiment: train.py does not batch models. M models with different initial weights take a step one by one, and as
one batched model (torch.func.stack_module_state and vmap). The ratio is the median over rounds; above 1, the batched
model is slower. All models get the same images and, batched, the same noise, because torch.distributions cannot draw
different noise under vmap. Writes docs/tables/batched_models.md.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

sys.path.insert(0, str(Path(__file__).parent.parent))

from doc_tables import describe_machine, markdown_row, markdown_table, write_times

from vae.model.likelihoods import Bernoulli
from vae.model.networks import MLPDecoder, MLPEncoder
from vae.model.posteriors import DiagonalGaussian
from vae.model.priors import StandardNormal
from vae.model.vae import VAE

SHAPE, D, STEPS = (1, 28, 28), 20, 20
SIZES = [(500, 200), (500, 20), (100, 200), (100, 20)]  # hidden_size, batch_size
HEADER = ["hidden_size", "batch_size", "models", "one by one, ms", "batched, ms", "ratio"]


def build_vae(hidden_size: int) -> VAE:
    encoder = MLPEncoder(SHAPE, 2 * D, hidden_size, "tanh")
    decoder = MLPDecoder(SHAPE, 1, D, hidden_size, "tanh")
    return VAE(encoder, DiagonalGaussian(D), decoder, Bernoulli(), StandardNormal(D, SHAPE))


class Loss(torch.nn.Module):
    """Minus the mean ELBO of images x."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> Tensor:
        return -self.vae.terms(x).elbo.mean()


def one_by_one(losses: list[Loss], x: Tensor) -> Callable[[], object]:
    """Return a function that takes one step of each model in turn."""
    optimizers = [torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True) for loss in losses]

    def step() -> None:
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss(x).backward()
            optimizer.step()

    return step


def batched(losses: list[Loss], x: Tensor) -> Callable[[], object]:
    """Return a function that takes one step of all models at the same time."""
    parameters, buffers = stack_module_state(losses)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3, fused=True)
    gradients = vmap(
        grad(lambda parameters, buffers: functional_call(losses[0], (parameters, buffers), (x,))),
        randomness="same",
    )

    def step() -> None:
        for parameter, gradient in zip(parameters.values(), gradients(parameters, buffers).values(), strict=True):
            parameter.grad = gradient
        optimizer.step()

    return step


def seconds_per_step(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    torch.manual_seed(0)
    rows = []
    for hidden_size, batch_size in SIZES:
        x = torch.rand(batch_size, *SHAPE).round()
        for M in (2, 4, 8):
            steps = [make([Loss(build_vae(hidden_size)) for _ in range(M)], x) for make in (one_by_one, batched)]
            rounds = [tuple(map(seconds_per_step, steps)) for _ in range(6)][1:]
            times = [1000 * statistics.median(column) for column in zip(*rounds, strict=True)]
            ratio = statistics.median(b / a for a, b in rounds)
            rows.append([str(hidden_size), str(batch_size), str(M), *(f"{t:.1f}" for t in times), f"{ratio:.2f}"])
            print(markdown_row(rows[-1]), flush=True)
    print(write_times("batched_models", markdown_table(HEADER, rows), describe_machine()))


if __name__ == "__main__":
    main()
