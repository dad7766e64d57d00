"""Compare the steps per second of several training loops on a GPU: python benchmarks/gpu.py [BATCH_SIZE ...].

All loops train the network of benchmarks/loops/common.py on MNIST, binarised at each use. train.py runs as users run
it: its whole epochs are timed, with validation, logging and checkpoints. Of the other loops only the steps are timed.
Writes docs/tables/gpu.md.
"""

import csv
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from doc_tables import describe_machine, markdown_table, write_times
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parent.parent
OUT = ROOT / "outputs" / "bench"
STEPS, EPOCHS = 500, 8
OPTIMIZER_KEYS = ["optimizer.lr=1e-3", "optimizer/schedule=constant"]


def build_network() -> tuple[nn.Module, nn.Module]:
    encoder = nn.Sequential(nn.Linear(784, 500), nn.Tanh(), nn.Linear(500, 40))
    return encoder, nn.Sequential(nn.Linear(20, 500), nn.Tanh(), nn.Linear(500, 784))


def terms(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(x|z) and the KL divergence for images (B, 784), as means over the images."""
    mean, log_var = encoder(x).chunk(2, -1)
    z = mean + (log_var / 2).exp() * torch.randn_like(mean)
    log_px_z = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1)
    kl = (mean.square() + log_var.exp() - 1 - log_var).sum(-1) / 2
    return log_px_z.mean(), kl.mean()


class TutorialVAE(LightningModule):
    """A VAE as in tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = build_network()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        log_px_z, kl = terms(self.encoder, self.decoder, torch.bernoulli(batch[0]))
        self.log("elbo", log_px_z - kl, prog_bar=True)
        self.log("log_likelihood", log_px_z)
        self.log("kl", kl)
        return kl - log_px_z

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class StepTimer(Callback):
    """Store the times at the beginning and the end of the last STEPS steps."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step in (STEPS, 2 * STEPS):
            torch.cuda.synchronize()
            self.end, self.start = time.perf_counter(), getattr(self, "end", 0.0)


def lightning_steps_per_second(grey: Tensor, batch: int) -> float:
    """Time Lightning with images in memory, a default DataLoader, the default progress bar and a CSV logger."""
    loader = DataLoader(TensorDataset(grey.cpu()), batch, shuffle=True)
    timer = StepTimer()
    with TemporaryDirectory() as folder:
        logger = CSVLogger(folder)
        Trainer(accelerator="gpu", devices=1, max_steps=2 * STEPS, logger=logger, callbacks=[timer]).fit(
            TutorialVAE(), loader
        )
    return STEPS / (timer.end - timer.start)


def torch_steps_per_second(grey: Tensor, batch: int, graphed: bool) -> float:
    """Time a plain PyTorch loop; if `graphed`, each step is one CUDA graph."""
    encoder, decoder = (part.cuda() for part in build_network())
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
        run_step: Callable[[], None] = step
        if graphed:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            run_step = graph.replay
        rates = []
        for _ in range(6):
            start = time.perf_counter()
            for _ in range(STEPS):
                run_step()
            torch.cuda.synchronize()
            rates.append(STEPS / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def train_py_steps_per_second(batch: int, keys: list[str], data: Path) -> float:
    """Time train.py: the median over its epochs, without the first two."""
    run = OUT / "gpu"
    shutil.rmtree(run, ignore_errors=True)
    sizes = [f"batch_size={batch}", f"trainer.max_epochs={EPOCHS}", "test.K=1", f"data_dir={data}"]
    command = [sys.executable, "train.py", "trainer=gpu", *keys, *OPTIMIZER_KEYS, *sizes, f"hydra.run.dir={run}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with (run / "metrics.csv").open(newline="") as file:
        epoch_ends = [row for row in csv.DictReader(file) if row["epoch"]]
    epoch_seconds = [float(b["seconds"]) - float(a["seconds"]) for a, b in pairwise(epoch_ends[1:])]
    return int(epoch_ends[0]["step"]) / statistics.median(epoch_seconds)


def training_loops() -> dict[str, Callable[[int], float]]:
    """Load the digits and return the functions that measure steps per second for a batch size."""
    sys.path.insert(0, str(ROOT))
    from datamodules.mnist import MNIST

    data = Path(os.environ.get("VAE_DATA_DIR", ROOT / "data")).absolute()
    digits = MNIST(str(data), 200, 0, 5000, 0, "dynamic")
    digits.prepare_data()
    digits.setup()
    grey = digits.images["train"].pixels.flatten(1).cuda() / 255
    return {
        "`python train.py trainer=gpu compile=true`": lambda batch: train_py_steps_per_second(
            batch, ["compile=true"], data
        ),
        "`python train.py trainer=gpu`": lambda batch: train_py_steps_per_second(batch, [], data),
        "plain PyTorch, each step a CUDA graph": lambda batch: torch_steps_per_second(grey, batch, graphed=True),
        "Lightning, DataLoader of a TensorDataset": lambda batch: lightning_steps_per_second(grey, batch),
        "plain PyTorch": lambda batch: torch_steps_per_second(grey, batch, graphed=False),
    }


def main(batch_sizes: list[int]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")  # as with trainer=gpu
    loops = training_loops()
    rows = {name: [name] for name in loops}
    for batch in batch_sizes:
        for name, steps_per_second in loops.items():
            rows[name].append(f"{steps_per_second(batch):,.0f}")
            print(f"batch {batch:>4}   {rows[name][-1]:>8} steps per second   {name}", flush=True)
    table = markdown_table(["steps per second", *(f"batch {batch}" for batch in batch_sizes)], rows.values())
    print(f"\n{table}\n\n{write_times('gpu', table, describe_machine(torch.cuda.get_device_name()))}")


if __name__ == "__main__":
    main([int(batch) for batch in sys.argv[1:]] or [20, 100, 200])
