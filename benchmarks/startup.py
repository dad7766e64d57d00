"""Time the imports and the start of train.py: python benchmarks/startup.py. Writes docs/tables/startup.md."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from doc_tables import describe_machine, markdown_table, median_and_range, write_times

ROOT = Path(__file__).parent.parent
RUN = ROOT / "outputs" / "bench" / "start"
FIRST_STEP = RUN / "metrics.csv"
HEADER = ["command", "seconds", "range"]
STARTS = 4  # of each command; the first, which may read from a slow disk, is not counted


def commands() -> dict[str, tuple[list[str], Path | None]]:
    """Return each command by its row of the table, with the file that it is timed to, or None for its end."""
    python = [sys.executable, "-c"]
    train = [sys.executable, "train.py", "log_every_n_steps=1", f"hydra.run.dir={RUN}"]
    compiled = [*train, "logger=csv", "compile=true"]
    return {
        "`python train.py --help`": ([sys.executable, "train.py", "--help"], None),
        "`import torch`": ([*python, "import torch"], None),
        "`import torch, pytorch_lightning`": ([*python, "import torch, pytorch_lightning"], None),
        "`import wandb`": ([*python, "import wandb"], None),
        "`python train.py`, to the end of the first step": (train, FIRST_STEP),
        "`python train.py logger=csv`, to the end of the first step": ([*train, "logger=csv"], FIRST_STEP),
        "`python train.py logger=csv compile=true`, to the end of the first step": (compiled, FIRST_STEP),
        "the same, with an empty compilation cache": (["env", f"TORCHINDUCTOR_CACHE_DIR={RUN}", *compiled], FIRST_STEP),
    }


def time_command(command: list[str], until: Path | None = None) -> float:
    """Return the seconds until a command ends or, if given, until the file `until` exists; then terminate it.

    Raises SystemExit if the command fails or ends without that file.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (until and until.exists()):
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    if process.returncode or (until and not until.exists()):
        raise SystemExit(f"{' '.join(command)}: ended too early")
    process.terminate()
    process.wait()
    return seconds


def main() -> None:
    rows = []
    for description, (command, until) in commands().items():
        seconds = []
        for _ in range(STARTS):
            shutil.rmtree(RUN, ignore_errors=True)
            seconds.append(time_command(command, until))
        rows.append([description, *median_and_range(seconds[1:], 1)])
        print(*rows[-1], flush=True)
    print(write_times("startup", markdown_table(HEADER, rows), describe_machine()))


if __name__ == "__main__":
    main()
