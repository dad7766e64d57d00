"""Time the estimator of log p(x) with K = 5000, relative to the matrix products of its decoder, and print a table.

python benchmarks/estimator.py [DEVICE]; the default device is the CPU.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from doc_tables import markdown_table

from vae.acceleration.torch_settings import configure_torch
from vae.evaluate.scores import compiled_draws
from vae.model.estimator import importance_sample
from vae.model.likelihoods import Bernoulli
from vae.model.networks import MLPDecoder, MLPEncoder
from vae.model.posteriors import DiagonalGaussian
from vae.model.priors import StandardNormal
from vae.model.vae import VAE

SHAPE, HIDDEN, D, K, IMAGES = (1, 28, 28), 500, 20, 5000, 100
CPU_ROWS, GPU_ROWS = 2500, 100_000  # rows per matrix product
ROUNDS = 6  # the first is a warm-up


def seconds(function: Callable[[], object]) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def main(device: str) -> None:
    configure_torch()
    torch.manual_seed(0)
    torch.set_default_device(device)
    encoder, decoder = MLPEncoder(SHAPE, 2 * D, HIDDEN, "tanh"), MLPDecoder(SHAPE, 1, D, HIDDEN, "tanh")
    vae = VAE(encoder, DiagonalGaussian(D), decoder, Bernoulli(), StandardNormal(D, SHAPE))
    x = torch.rand(IMAGES, *SHAPE).round()
    W1, W2 = (layer.weight.T for layer in decoder.net if hasattr(layer, "weight"))
    n_rows = CPU_ROWS if device == "cpu" else GPU_ROWS
    z, h = torch.randn(n_rows, D), torch.randn(n_rows, HIDDEN)

    def matrix_products() -> None:
        for _ in range(K * IMAGES // n_rows):
            _ = z @ W1, h @ W2

    compiled = compiled_draws(vae, x, K)
    estimators: dict[str, Callable[[], object]] = {
        "`compile=false`": lambda: importance_sample(vae, x, K),
        "`compile=true`": lambda: importance_sample(vae, x, K, compiled=compiled),
    }
    rounds = [(seconds(matrix_products), *map(seconds, estimators.values())) for _ in range(ROUNDS)][1:]
    rows = []
    for i, name in enumerate(estimators, 1):
        ratio = statistics.median(times[i] / times[0] for times in rounds)
        milliseconds = 1000 * statistics.median(times[i] for times in rounds) / IMAGES
        rows.append([name, f"{milliseconds:.3g}", f"{ratio:.2f}"])
    print(markdown_table([f"log p(x), K = {K}", "ms per image", "relative to its matrix products"], rows))


if __name__ == "__main__":
    main(*sys.argv[1:] or ["cpu"])
