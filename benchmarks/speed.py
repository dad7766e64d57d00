"""Compare the speed of train.py with other ways to train the same model: python benchmarks/speed.py PEERS [EPOCHS].

PEERS is a Python with the packages of benchmarks/requirements.txt; EPOCHS is at least 3. Each loop of benchmarks/loops,
and train.py as users run it, is a process of its own. The processes take turns of one epoch; all others are paused.
Compare the ratios to the plain PyTorch loop in the same round rather than seconds: a machine that is slow for a while
slows down all loops. The first two epochs, with imports and compilation, are not counted. Writes loops.md and
estimator.md in docs/tables/.
"""

import json
import os
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
from pathlib import Path

import numpy as np
from doc_tables import describe_machine, markdown_table, median_and_range, write_times

ROOT = Path(__file__).parent.parent
OUT = ROOT / "outputs" / "bench"
sys.path.insert(0, str(ROOT))

LOOPS = {
    "matmuls": "only the matrix products",
    "jax_scan": "JAX, one jitted scan per epoch",
    "plain": "plain PyTorch loop, fused Adam, torch.bernoulli per batch",
    "train": "`python train.py`, with progress bar, loggers and callbacks",
    "train_compiled": "`python train.py compile=true`, with the same",
    "train_uncompiled": "`python train.py compile=false`, with the same",
    "keras_jax": "Keras 3 on JAX, fit",
    "pythae_vae": "pythae, its own trainer",
    "lightning_torchvision": "Lightning with torchvision's MNIST, ToTensor, a DataLoader",
}
LOOPS_HEADER = ["loop", "s/epoch", "relative to plain PyTorch", "range of the ratio", "test ELBO", "peak memory, MB"]
# The loops that run train.py, and their keys. The default only compiles long trainings: it gets no max_epochs, and is
# killed before its end.
TRAIN_KEYS = {"train": [], "train_compiled": ["compile=true"], "train_uncompiled": ["compile=false"]}


def prepare_digits() -> dict[str, str]:
    """Write the digits, split and binarised, to a file; return the environment variables of the loops.

    MNIST is the folder of the original files, DIGITS is the file.
    """
    from datamodules.mnist import MNIST

    data = MNIST(os.environ.get("VAE_DATA_DIR", str(ROOT / "data")), 200, 0, 5000, 0, "dynamic")
    data.prepare_data()
    data.setup()
    file = OUT / "digits.npz"
    np.savez(file, **{name: split.pixels.flatten(1).numpy() for name, split in data.images.items()})
    return {"MNIST": str(data.folder.absolute()), "DIGITS": str(file)}


class Loop:
    """A training loop in a process that is paused except while `run_epoch` or `finish` is called."""

    def __init__(self, name: str, peers: str, environment: dict[str, str], epochs: int) -> None:
        self.summary: Path | None = None
        self.tested = name != "train"
        self.seconds: list[float] = []
        self.elbo, self.memory = float("nan"), 0
        command, cwd = [peers, f"{name}.py"], ROOT / "benchmarks" / "loops"
        if name in TRAIN_KEYS:
            run, cwd = OUT / name, ROOT
            shutil.rmtree(run, ignore_errors=True)
            self.summary = run / "summary.json"
            keys = [
                "optimizer.lr=1e-3",
                "optimizer/schedule=constant",
                f"data_dir={Path(environment['MNIST']).parent.parent}",
                *([f"trainer.max_epochs={epochs}"] if self.tested else []),
            ]
            command = [sys.executable, "train.py", *keys, "test.K=1", *TRAIN_KEYS[name], f"hydra.run.dir={run}"]
        terminal, stderr = pty.openpty()  # a terminal, so that progress bars are drawn
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=os.environ | environment | {"EPOCHS": str(epochs), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        os.close(stderr)
        threading.Thread(target=drain, args=(terminal,), daemon=True).start()
        self.lines = self.read_lines()
        self.pause()

    def read_lines(self) -> Iterator[list[str]]:
        """Yield the words of each line of output. Raises SystemExit when the process ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words := line.split():
                yield words
        raise SystemExit(f"{' '.join(map(str, self.process.args))}: ended too early")

    def send(self, signal_: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal_)

    def pause(self) -> None:
        self.send(signal.SIGSTOP)

    def run_epoch(self) -> None:
        """Continue the process until it reports the end of an epoch; measure time and peak memory."""
        start = time.perf_counter()
        self.send(signal.SIGCONT)
        next(words for words in self.lines if words[0] == "epoch")
        self.seconds.append(time.perf_counter() - start)
        self.pause()
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        self.memory = max(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))

    def finish(self) -> None:
        """Continue the process until its end and read the test ELBO."""
        if not self.tested:
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
    """Discard the output on a terminal until its process ends; otherwise the process would block."""
    with suppress(OSError):
        while os.read(terminal, 4096):
            pass


def time_loops(peers: str, epochs: int) -> str:
    """Run all loops, one epoch each in turn, and return the table."""
    environment = prepare_digits()
    loops = {name: Loop(name, peers, environment, epochs) for name in LOOPS}
    try:
        for i in range(epochs):
            for name, loop in loops.items():
                loop.run_epoch()
                print(f"epoch {i + 1} of {epochs}   {name:<22} {loop.seconds[-1]:6.2f} s", flush=True)
        for loop in loops.values():
            loop.finish()
    finally:
        for loop in loops.values():
            loop.send(signal.SIGKILL)
    rows = []
    plain = loops["plain"].seconds[2:]
    for name, description in LOOPS.items():
        loop, seconds = loops[name], loops[name].seconds[2:]
        ratios = [a / b for a, b in zip(seconds, plain, strict=True)]
        elbo = "" if loop.elbo != loop.elbo else f"{loop.elbo:.2f}"
        ratio, ratio_range = median_and_range(ratios, 2)
        median = f"{statistics.median(seconds):.2f}"
        rows.append([description, median, ratio, "" if name == "plain" else ratio_range, elbo, str(loop.memory)])
    return markdown_table(LOOPS_HEADER, rows)


def time_estimator() -> str:
    """Run benchmarks/estimator.py and return its table."""
    command = [sys.executable, "benchmarks/estimator.py"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def peer_versions(peers: str) -> str:
    """Return the versions of the compared libraries, as installed for the Python `peers`."""
    script = (
        "from importlib.metadata import version; "
        "print(', '.join(f'{name} {version(name)}' for name in ('jax', 'keras', 'pythae')))"
    )
    return subprocess.run([peers, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def main(peers: str, epochs: int) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    benchmarks = {
        "estimator": (time_estimator, machine),
        "loops": (lambda: time_loops(peers, epochs), f"{machine}, {peer_versions(peers)}"),
    }
    for name, (measure, about) in benchmarks.items():
        table = measure()
        print(f"\n{table}\n\n{write_times(name, table, about)}\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 7)
