"""Many models at once: python benchmarks/batched_models.py. An experiment; train.py does nothing of the kind.

M models, each with first weights of its own, take a step one after the other, and as one batched model
(torch.func.stack_module_state, vmap). What counts is the ratio within a round; above 1, the batched model is the
slower. All share their images and, batched, their noise as well: that of torch.distributions cannot differ under vmap.
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

from vae.model.likelihoods import Bernoulli
from vae.model.networks import MLPDecoder, MLPEncoder
from vae.model.posteriors import DiagonalGaussian
from vae.model.priors import StandardNormal
from vae.model.vae import VAE

SHAPE, D, STEPS = (1, 28, 28), 20, 20


def model(hidden_size: int) -> VAE:
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


def one_by_one(models: list[Loss], x: Tensor) -> Callable[[], object]:
    optimizers = [torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True) for loss in models]

    def step() -> None:
        for loss, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss(x).backward()
            optimizer.step()

    return step


def at_once(models: list[Loss], x: Tensor) -> Callable[[], object]:
    parameters, buffers = stack_module_state(models)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3, fused=True)
    gradients = vmap(
        grad(lambda parameters, buffers: functional_call(models[0], (parameters, buffers), (x,))),
        randomness="same",
    )

    def step() -> None:
        for parameter, gradient in zip(parameters.values(), gradients(parameters, buffers).values(), strict=True):
            parameter.grad = gradient
        optimizer.step()

    return step


def seconds(step: Callable[[], object]) -> float:
    begun = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - begun) / STEPS


def main() -> None:
    torch.manual_seed(0)
    print("| hidden_size | batch_size | models | one by one, ms | at once, ms | ratio |\n|---|---|---|---|---|---|")
    for hidden_size, batch_size in ((500, 200), (500, 20), (100, 200), (100, 20)):
        x = torch.rand(batch_size, *SHAPE).round()
        for M in (2, 4, 8):
            ways = [make([Loss(model(hidden_size)) for _ in range(M)], x) for make in (one_by_one, at_once)]
            rounds = [tuple(map(seconds, ways)) for _ in range(6)][1:]
            alone, together = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
            ratio = statistics.median(b / a for a, b in rounds)
            print(f"| {hidden_size} | {batch_size} | {M} | {alone:.1f} | {together:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
