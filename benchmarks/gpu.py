"""Steps a second on a GPU, by ways to take the same ones: python benchmarks/gpu.py [BATCH ...].

The network of benchmarks/loops/common.py, trained on MNIST's digits, made binary anew at each use. train.py is run as
users run it and its whole epochs are counted, with validation, records and checkpoints; of the others, steps alone.
The table goes to outputs/bench/gpu.md.
"""

import csv
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytorch_lightning
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parent.parent
OUT = ROOT / "outputs" / "bench"
STEPS, EPOCHS = 500, 8
RATE = ["optimizer.lr=1e-3", "optimizer/schedule=constant"]


def network() -> tuple[nn.Module, nn.Module]:
    encoder = nn.Sequential(nn.Linear(784, 500), nn.Tanh(), nn.Linear(500, 40))
    return encoder, nn.Sequential(nn.Linear(20, 500), nn.Tanh(), nn.Linear(500, 784))


def terms(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x|z) and the KL divergence, means over images (B, 784)."""
    mean, log_var = encoder(x).chunk(2, -1)
    z = mean + (log_var / 2).exp() * torch.randn_like(mean)
    log_px_z = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1)
    kl = (mean.square() + log_var.exp() - 1 - log_var).sum(-1) / 2
    return log_px_z.mean(), kl.mean()


class Lit(LightningModule):
    """As tutorials have it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = network()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        log_px_z, kl = terms(self.encoder, self.decoder, torch.bernoulli(batch[0]))
        self.log("elbo", log_px_z - kl, prog_bar=True)
        self.log("log_likelihood", log_px_z)
        self.log("kl", kl)
        return kl - log_px_z

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Clock(Callback):
    """The seconds of the last STEPS steps."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step in (STEPS, 2 * STEPS):
            torch.cuda.synchronize()
            self.begun, self.before = time.perf_counter(), getattr(self, "begun", 0.0)


def plain_lightning(grey: Tensor, batch: int) -> float:
    """Steps a second; images in memory, a default DataLoader, the default bar, a CSV file."""
    loader = DataLoader(TensorDataset(grey.cpu()), batch, shuffle=True)
    clock = Clock()
    with TemporaryDirectory() as folder:
        logger = CSVLogger(folder)
        Trainer(accelerator="gpu", devices=1, max_steps=2 * STEPS, logger=logger, callbacks=[clock]).fit(Lit(), loader)
    return STEPS / (clock.begun - clock.before)


def raw(grey: Tensor, batch: int, graphed: bool) -> float:
    """Steps a second of a loop around torch, whose steps are one CUDA graph if `graphed`."""
    encoder, decoder = (part.cuda() for part in network())
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3, fused=True, capturable=True)

    def step() -> None:
        rows = torch.randint(len(grey), (batch,), device="cuda")
        log_px_z, kl = terms(encoder, decoder, torch.bernoulli(grey[rows]))
        optimizer.zero_grad()
        (kl - log_px_z).backward()
        optimizer.step()

    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(10):
            step()
        torch.cuda.synchronize()
        take: Callable[[], None] = step
        if graphed:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            take = graph.replay
        rates = []
        for _ in range(6):
            begun = time.perf_counter()
            for _ in range(STEPS):
                take()
            torch.cuda.synchronize()
            rates.append(STEPS / (time.perf_counter() - begun))
    return statistics.median(rates[1:])


def ours(batch: int, keys: list[str], data: Path) -> float:
    """Steps a second of train.py: the median of its epochs but the first two."""
    run = OUT / "gpu"
    shutil.rmtree(run, ignore_errors=True)
    work = [f"batch_size={batch}", f"trainer.max_epochs={EPOCHS}", "test.K=1", f"data_dir={data}"]
    command = [sys.executable, "train.py", "trainer=gpu", *keys, *RATE, *work, f"hydra.run.dir={run}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with (run / "metrics.csv").open(newline="") as file:
        ends = [row for row in csv.DictReader(file) if row["epoch"]]
    took = [float(b["seconds"]) - float(a["seconds"]) for a, b in pairwise(ends[1:])]
    return int(ends[0]["step"]) / statistics.median(took)


def main(batches: list[int]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")  # as with trainer=gpu
    sys.path.insert(0, str(ROOT))
    from datamodules.mnist import MNIST

    data = Path(os.environ.get("VAE_DATA_DIR", ROOT / "data")).absolute()
    digits = MNIST(str(data), 200, 0, 5000, 0, "dynamic")
    digits.prepare_data()
    digits.setup()
    grey = digits.images["train"].pixels.flatten(1).cuda() / 255
    ways: dict[str, Callable[[int], float]] = {
        "`python train.py trainer=gpu compile=true`": lambda batch: ours(batch, ["compile=true"], data),
        "`python train.py trainer=gpu`": lambda batch: ours(batch, [], data),
        "torch alone, a step as a CUDA graph": lambda batch: raw(grey, batch, graphed=True),
        "Lightning, a DataLoader of a tensor": lambda batch: plain_lightning(grey, batch),
        "torch alone": lambda batch: raw(grey, batch, graphed=False),
    }
    rates: dict[str, list[str]] = {name: [] for name in ways}
    for batch in batches:
        for name, way in ways.items():
            rates[name].append(f"{way(batch):,.0f}")
            print(f"batch {batch:>4}   {rates[name][-1]:>8} steps a second   {name}", flush=True)
    lines = [
        f"{date.today()}, {torch.cuda.get_device_name()}; torch {torch.__version__}, pytorch-lightning "
        f"{pytorch_lightning.__version__}; steps a second.",
        "",
        "| | " + " | ".join(f"batch {batch}" for batch in batches) + " |",
        "|---" * (1 + len(batches)) + "|",
        *(f"| {name} | {' | '.join(found)} |" for name, found in rates.items()),
    ]
    (OUT / "gpu.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main([int(batch) for batch in sys.argv[1:]] or [20, 100, 200])
