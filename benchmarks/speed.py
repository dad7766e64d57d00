"""How long an epoch takes, side by side with other ways to do the same work: python benchmarks/speed.py PEERS [EPOCHS].

PEERS is a Python that has what benchmarks/requirements.txt names; EPOCHS, three or more. Every loop of
benchmarks/loops, and train.py as users run it, is a process of its own; all are held but the one whose turn it is, for
one epoch at a time. What counts is the ratio to the plain PyTorch loop in the same round, so that a machine which is
slow for a while is slow for all. The first two epochs of each, with imports and compilations, are left out. The tables
go to outputs/bench/speed.md.
"""

import json
import os
import platform
import pty
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
OUT = ROOT / "outputs" / "bench"
sys.path.insert(0, str(ROOT))

LOOPS = {
    "matmuls": "the matrix products alone",
    "jax_scan": "JAX, one jitted scan an epoch",
    "plain": "a plain PyTorch loop, fused Adam, torch.bernoulli a batch",
    "train": "`python train.py`, with its bar, loggers and callbacks",
    "train_compiled": "`python train.py compile=true`, with the same",
    "train_uncompiled": "`python train.py compile=false`, with the same",
    "keras_jax": "Keras 3 on JAX, fit",
    "pythae_vae": "pythae, its own trainer",
    "lightning_torchvision": "Lightning with torchvision's MNIST, ToTensor, a DataLoader",
}
# loops that are train.py, with these keys; the default, which compiles a long training only, is given one and cut off
OURS = {"train": [], "train_compiled": ["compile=true"], "train_uncompiled": ["compile=false"]}


def digits() -> dict[str, str]:
    """What tells the loops of the folder of MNIST's files and of a file with its digits, split and made binary."""
    from datamodules.mnist import MNIST

    data = MNIST(os.environ.get("VAE_DATA_DIR", str(ROOT / "data")), 200, 0, 5000, 0, "dynamic")
    data.prepare_data()
    data.setup()
    file = OUT / "digits.npz"
    np.savez(file, **{name: split.pixels.flatten(1).numpy() for name, split in data.images.items()})
    return {"MNIST": str(data.folder.absolute()), "DIGITS": str(file)}


class Loop:
    """One of the ways, as a process that is held whenever it is not its turn."""

    def __init__(self, name: str, peers: str, told: dict[str, str], epochs: int) -> None:
        self.summary: Path | None = None
        self.whole = name != "train"
        self.seconds: list[float] = []
        self.elbo, self.memory = float("nan"), 0
        command, cwd = [peers, f"{name}.py"], ROOT / "benchmarks" / "loops"
        if name in OURS:
            run, cwd = OUT / name, ROOT
            shutil.rmtree(run, ignore_errors=True)
            self.summary = run / "summary.json"
            set_up = [
                "optimizer.lr=1e-3",
                "optimizer/schedule=constant",
                f"data_dir={Path(told['MNIST']).parent.parent}",
                *([f"trainer.max_epochs={epochs}"] if self.whole else []),
            ]
            command = [sys.executable, "train.py", *set_up, "test.K=1", *OURS[name], f"hydra.run.dir={run}"]
        terminal, end = pty.openpty()  # so that bars are drawn
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=os.environ | told | {"EPOCHS": str(epochs), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=end,
            text=True,
            start_new_session=True,
        )
        os.close(end)
        threading.Thread(target=drain, args=(terminal,), daemon=True).start()
        self.lines = self.said()
        self.hold()

    def said(self) -> Iterator[list[str]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words := line.split():
                yield words
        raise SystemExit(f"{' '.join(map(str, self.process.args))}: ended before its time")

    def send(self, what: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, what)

    def hold(self) -> None:
        self.send(signal.SIGSTOP)

    def epoch(self) -> None:
        """Let it go on until it says that an epoch is over."""
        begun = time.perf_counter()
        self.send(signal.SIGCONT)
        next(words for words in self.lines if words[0] == "epoch")
        self.seconds.append(time.perf_counter() - begun)
        self.hold()
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        self.memory = max(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))

    def finish(self) -> None:
        """Let it test what it has trained."""
        if not self.whole:
            return
        self.send(signal.SIGCONT)
        if self.summary is None:
            self.elbo = float(next(words for words in self.lines if words[0] == "test")[1])
            self.process.wait()
        else:
            with suppress(SystemExit):
                list(self.lines)
            self.process.wait()
            self.elbo = json.loads(self.summary.read_text())["test/elbo"]


def drain(terminal: int) -> None:
    """Read what is drawn on a terminal, until its process ends, so that it never waits."""
    with suppress(OSError):
        while os.read(terminal, 4096):
            pass


def side_by_side(peers: str, epochs: int) -> str:
    """The table of epochs."""
    told = digits()
    loops = {name: Loop(name, peers, told, epochs) for name in LOOPS}
    try:
        for i in range(epochs):
            for name, loop in loops.items():
                loop.epoch()
                print(f"epoch {i + 1} of {epochs}   {name:<22} {loop.seconds[-1]:6.2f} s", flush=True)
        for loop in loops.values():
            loop.finish()
    finally:
        for loop in loops.values():
            loop.send(signal.SIGKILL)
    lines = ["| loop | s/epoch | to the plain loop | test ELBO | memory, MB |", "|---|---|---|---|---|"]
    plain = loops["plain"].seconds[2:]
    for name, what in LOOPS.items():
        loop, seconds = loops[name], loops[name].seconds[2:]
        ratio = statistics.median(a / b for a, b in zip(seconds, plain, strict=True))
        elbo = "" if loop.elbo != loop.elbo else f"{loop.elbo:.2f}"
        lines.append(f"| {what} | {statistics.median(seconds):.2f} | {ratio:.2f} | {elbo} | {loop.memory} |")
    return "\n".join(lines)


def timed(command: list[str], until: Path | None = None) -> float:
    """Seconds that a command takes, or those until a file is there, when it is ended."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (until and until.exists()):
        time.sleep(0.01)
    seconds = time.perf_counter() - begun
    process.terminate()
    process.wait()
    return seconds


def start_up() -> str:
    """The table of what happens before the first step; the median of five."""
    run = OUT / "start"
    first_step = run / "metrics.csv"
    train = [sys.executable, "train.py", "log_every_n_steps=1", f"hydra.run.dir={run}"]
    compiled = [*train, "logger=csv", "compile=true"]
    python = [sys.executable, "-c"]
    commands: dict[str, tuple[list[str], Path | None]] = {
        "`python train.py --help`": ([sys.executable, "train.py", "--help"], None),
        "`import torch`": ([*python, "import torch"], None),
        "`import torch, pytorch_lightning`": ([*python, "import torch, pytorch_lightning"], None),
        "`import wandb`": ([*python, "import wandb"], None),
        "`python train.py`, to the end of its first step": (train, first_step),
        "the same with `logger=csv`": ([*train, "logger=csv"], first_step),
        "with `logger=csv compile=true`": (compiled, first_step),
        "the first time on a machine": (["env", f"TORCHINDUCTOR_CACHE_DIR={run}", *compiled], first_step),
    }
    lines = ["| from typing it | s |", "|---|---|"]
    for what, (command, until) in commands.items():
        seconds = []
        for _ in range(5):
            shutil.rmtree(run, ignore_errors=True)
            seconds.append(timed(command, until))
        lines.append(f"| {what} | {statistics.median(seconds):.1f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def machine(peers: str) -> str:
    """Date, processor, versions."""
    models = [line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    named = "from importlib.metadata import version as v; print(', '.join(f'{n} {v(n)}' for n in "
    asked = named + "('jax', 'keras', 'pythae')))"
    theirs = subprocess.run([peers, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    ours = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning"))
    cores = f"{models[0].strip()}, {os.cpu_count()} cores"
    return f"{date.today()}, {cores}; Python {platform.python_version()}, {ours}, {theirs}."


def main(peers: str, epochs: int) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    estimator = subprocess.run(
        [sys.executable, "benchmarks/estimator.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    print(estimator, flush=True)
    report = "\n\n".join([machine(peers), side_by_side(peers, epochs), start_up(), estimator])
    (OUT / "speed.md").write_text(report + "\n")
    print(f"\n{report}\n\n{OUT.relative_to(ROOT) / 'speed.md'}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8)
