"""Plot the training time over hidden size, batch size and number of pixels: python benchmarks/scaling.py.

Each point is a run of train.py with compiled steps, followed by the matrix products of the same shapes alone.
Writes docs/images/scaling.png.
"""

import csv
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
OUT = ROOT / "outputs" / "bench"
FIGURE = ROOT / "docs" / "images" / "scaling.png"
LATENT_DIM = 20
MNIST = {"hidden_size": 500, "batch_size": 200}
# Sprites, because the same images are available in many sizes.
SPRITES = [
    "dataset=pokemon",
    "architecture=mlp",
    "likelihood=gaussian",
    "objective=elbo",
    "activation=tanh",
    "dataset.shiny=false",
    "dataset.flips=false",
    "dataset.shift=0",
]
# For each panel: (x, keys of train.py, sizes of the matrix products).
SWEEPS: dict[str, list[tuple[int, list[str], dict[str, int]]]] = {
    "hidden_size": [(n, [], MNIST | {"hidden_size": n}) for n in (100, 200, 500, 1000, 2000)],
    "batch_size": [(n, [], MNIST | {"batch_size": n}) for n in (10, 20, 50, 100, 200, 500, 1000)],
    "pixels and channels": [
        (3 * side**2, [*SPRITES, f"dataset.size={side}"], MNIST | {"pixels": 3 * side**2})
        for side in (16, 24, 32, 48, 68)
    ],
}


def train_seconds(keys: list[str], sizes: dict[str, int]) -> float:
    """Run train.py and return the training time per image, without the first epoch."""
    folder = OUT / "scaling"
    shutil.rmtree(folder, ignore_errors=True)
    epochs = 12 if keys else 3
    arguments = [f"{key}={sizes[key]}" for key in ("hidden_size", "batch_size")]
    arguments += [*keys, f"trainer.max_epochs={epochs}", "test.K=1", "test.images=2", "logger=csv"]
    arguments += ["optimizer/schedule=constant", "optimizer.lr=1e-4", "compile=true", f"hydra.run.dir={folder}"]
    subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, check=True, capture_output=True)
    with (folder / "metrics.csv").open() as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file) if row["images_per_second"]]
    return 1 / statistics.median(speeds[len(speeds) // epochs :])


def product_seconds(hidden_size: int, batch_size: int, pixels: int = 784) -> float:
    """Return the time per image of a step's matrix products, forward and backward: the median of 50 steps."""
    x, h, z, g = (torch.rand(batch_size, n) for n in (pixels, hidden_size, LATENT_DIM, 2 * LATENT_DIM))
    W1, W2, W3, W4 = (
        torch.rand(*shape)
        for shape in (
            (hidden_size, pixels),
            (2 * LATENT_DIM, hidden_size),
            (hidden_size, LATENT_DIM),
            (pixels, hidden_size),
        )
    )
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        _ = x @ W1.T, h @ W2.T, z @ W3.T, h @ W4.T
        _ = x.T @ h, x @ W4, h.T @ z, h @ W3, g.T @ h, g @ W2, h.T @ x
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / batch_size


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    OUT.mkdir(parents=True, exist_ok=True)
    figure, panels = plt.subplots(1, len(SWEEPS), figsize=(12, 3.6), sharey=True, layout="constrained")
    for panel, (name, points) in zip(panels, SWEEPS.items(), strict=True):
        xs, train, products = [], [], []
        for x, keys, sizes in points:
            xs.append(x)
            train.append(1e6 * train_seconds(keys, sizes))
            products.append(1e6 * product_seconds(**sizes))
            print(f"{name:<20} {x:>6} {train[-1]:8.1f} us per image, products alone {products[-1]:8.1f}", flush=True)
        panel.loglog(xs, train, "o-", label="python train.py")
        panel.loglog(xs, products, "s--", label="only its matrix products")
        panel.set_xticks(xs, map(str, xs), rotation=45)
        panel.minorticks_off()
        panel.set_xlabel(name)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("microseconds per image")
    panels[0].legend(frameon=False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    print(os.path.relpath(FIGURE))


if __name__ == "__main__":
    main()
