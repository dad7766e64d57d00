"""The estimator of log p(x), K = 5000, against the products of its decoder alone; by itself, and once compiled.

python benchmarks/estimator.py [DEVICE]; the CPU, if none is named.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from vae.acceleration.torch_settings import configure_torch
from vae.model.estimator import compiled_draws, importance_sample
from vae.model.likelihoods import Bernoulli
from vae.model.networks import MLPDecoder, MLPEncoder
from vae.model.posteriors import DiagonalGaussian
from vae.model.priors import StandardNormal
from vae.model.vae import VAE

SHAPE, HIDDEN, D, K, IMAGES = (1, 28, 28), 500, 20, 5000, 100


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


@torch.inference_mode()
def main(device: str) -> None:
    configure_torch()
    torch.manual_seed(0)
    torch.set_default_device(device)
    encoder, decoder = MLPEncoder(SHAPE, 2 * D, HIDDEN, "tanh"), MLPDecoder(SHAPE, 1, D, HIDDEN, "tanh")
    vae = VAE(encoder, DiagonalGaussian(D), decoder, Bernoulli(), StandardNormal(D, SHAPE))
    x = torch.rand(IMAGES, *SHAPE).round()
    first, second = (layer.weight.T for layer in decoder.net if hasattr(layer, "weight"))
    rows = 2500 if device == "cpu" else 100_000
    z, h = torch.randn(rows, D), torch.randn(rows, HIDDEN)

    def products() -> None:
        for _ in range(K * IMAGES // rows):
            _ = z @ first, h @ second

    compiled = compiled_draws(vae, x, K)
    ways = {
        "": lambda: importance_sample(vae, x, K),
        ", compile=true": lambda: importance_sample(vae, x, K, compiled=compiled),
    }
    rounds = [(seconds(products), *map(seconds, ways.values())) for _ in range(7)][1:]
    for i, way in enumerate(ways, 1):
        ratio = statistics.median(each[i] / each[0] for each in rounds)
        image = 1000 * statistics.median(each[i] for each in rounds) / IMAGES
        print(f"log p(x), K = {K}{way}: {image:.3g} ms an image, {ratio:.2f} of the time of its matrix products.")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["cpu"])
