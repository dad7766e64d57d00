"""How the cost of training grows with hidden size, batch size and pixels: python benchmarks/scaling.py.

Each point is a run of train.py whose steps are compiled, as those of a long training are, and right after it the matrix
products of the same shapes alone. The figure goes to outputs/bench/growth.png.
"""

import csv
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
OUT = ROOT / "outputs" / "bench"
CODES = 20
MNIST = {"hidden_size": 500, "batch_size": 200}
# of sprites, so that the same images can be had in many sizes
SPRITES = [
    "dataset=pokemon",
    "architecture=mlp",
    "likelihood=gaussian",
    "activation=tanh",
    "dataset.flips=false",
    "dataset.shift=0",
]
SWEEPS: dict[str, list[tuple[int, list[str], dict[str, int]]]] = {
    "hidden_size": [(n, [], MNIST | {"hidden_size": n}) for n in (100, 200, 500, 1000, 2000)],
    "batch_size": [(n, [], MNIST | {"batch_size": n}) for n in (10, 20, 50, 100, 200, 500, 1000)],
    "pixels and channels": [
        (3 * side**2, [*SPRITES, f"dataset.size={side}"], MNIST | {"pixels": 3 * side**2})
        for side in (16, 24, 32, 48, 68)
    ],
}


def train_seconds(arguments: list[str], sizes: dict[str, int]) -> float:
    """Seconds an image of train.py, the first epoch left out."""
    folder = OUT / "growth"
    shutil.rmtree(folder, ignore_errors=True)
    keys = [f"{key}={sizes[key]}" for key in ("hidden_size", "batch_size")]
    epochs = 12 if arguments else 3
    command = [*keys, *arguments, f"trainer.max_epochs={epochs}", "test.K=1", "test.images=2", "logger=csv"]
    command += ["optimizer/schedule=constant", "optimizer.lr=1e-4", "compile=true", f"hydra.run.dir={folder}"]
    subprocess.run([sys.executable, "train.py", *command], cwd=ROOT, check=True, capture_output=True)
    with (folder / "metrics.csv").open() as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file) if row["images_per_second"]]
    return 1 / statistics.median(speeds[len(speeds) // epochs :])


def product_seconds(hidden_size: int, batch_size: int, pixels: int = 784) -> float:
    """Seconds an image of a step's matrix products, forward and backward; the median of many steps."""
    x, h, z, g = (torch.rand(batch_size, n) for n in (pixels, hidden_size, CODES, 2 * CODES))
    W1, W2, W3, W4 = (
        torch.rand(*shape)
        for shape in ((hidden_size, pixels), (2 * CODES, hidden_size), (hidden_size, CODES), (pixels, hidden_size))
    )
    seconds = []
    for _ in range(50):
        begun = time.perf_counter()
        _ = x @ W1.T, h @ W2.T, z @ W3.T, h @ W4.T
        _ = x.T @ h, x @ W4, h.T @ z, h @ W3, g.T @ h, g @ W2, h.T @ x
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds) / batch_size


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    OUT.mkdir(parents=True, exist_ok=True)
    figure, panels = plt.subplots(1, len(SWEEPS), figsize=(12, 3.6), sharey=True, layout="constrained")
    for panel, (what, points) in zip(panels, SWEEPS.items(), strict=True):
        at, ours, products = [], [], []
        for n, arguments, sizes in points:
            at.append(n)
            ours.append(1e6 * train_seconds(arguments, sizes))
            products.append(1e6 * product_seconds(**sizes))
            print(f"{what:<20} {n:>6} {ours[-1]:8.1f} us an image, products alone {products[-1]:8.1f}", flush=True)
        panel.loglog(at, ours, "o-", label="python train.py")
        panel.loglog(at, products, "s--", label="its matrix products alone")
        panel.set_xticks(at, map(str, at), rotation=45)
        panel.minorticks_off()
        panel.set_xlabel(what)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("microseconds an image")
    panels[0].legend(frameon=False)
    figure.savefig(OUT / "growth.png", dpi=110)
    print(OUT.relative_to(ROOT) / "growth.png")


if __name__ == "__main__":
    main()
