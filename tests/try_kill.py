"""Kill a training with SIGKILL at random moments and resume it after each: python tests/try_kill.py FOLDER [KILLS].

Each time it finishes, its results must be those of a run that was not interrupted, and it begins again. FOLDER is where
the runs are written. It may be on another file system than the temporary folder, which must stay empty. The processes
are forks of this one, which has imported torch but not used it.
"""

import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import train
import vae.training.experiment  # noqa: F401 (imported once, for all forks)

DIGITS = ["dataset=digits", "logger=csv", "hidden_size=16", "test.K=2", "trainer.max_epochs=30", "compile=false"]
TIMES = ("images_per_second", "seconds")


def work(folder: Path, temporary: str, arguments: list[str]) -> None:
    """Run train.py in a folder. Its output is written to output.txt."""
    os.chdir(folder)
    os.environ["TMPDIR"], tempfile.tempdir = temporary, None
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = ["train.py", *arguments]
    sys.exit(train.cli())


def start(folder: Path, temporary: str, *arguments: str) -> BaseProcess:
    """Start train.py in a fork of this process."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(folder, temporary, list(arguments)))
    process.start()
    return process


def rows(run: Path) -> list[list[str]]:
    """Return the cells of metrics.csv without those that depend on the clock."""
    header, *lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    kept = [i for i, name in enumerate(header) if name not in TIMES]
    return [[line[i] for i in kept] for line in [header, *lines]]


def compare(one: Path, two: Path) -> None:
    """Raise AssertionError unless two finished runs have the same results, without leftovers."""
    first, second = (json.loads((run / "summary.json").read_text()) for run in (one, two))
    assert first == second
    assert rows(one) == rows(two)
    assert not list(two.rglob("*.part*"))


def main() -> None:
    folder, kills = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 30
    folder.mkdir(parents=True, exist_ok=True)
    rng, killed, finished = random.Random(0), 0, 0
    one, two = folder / "uninterrupted", folder / "killed"
    with tempfile.TemporaryDirectory() as temporary:
        begun = time.monotonic()
        process = start(folder, temporary, *DIGITS, "hydra.run.dir=uninterrupted")
        process.join()
        assert process.exitcode == 0, (folder / "output.txt").read_text()
        duration = time.monotonic() - begun
        print(f"not interrupted: {duration:.1f} s", flush=True)
        while killed < kills or two.exists():
            begins = not (two / "data.json").exists()
            arguments = [*DIGITS, "hydra.run.dir=killed"] if begins else ["resume=killed"]
            process = start(folder, temporary, *arguments)
            moment = rng.uniform(0, duration)
            process.join(moment if killed < kills else None)
            if process.exitcode is None:
                process.kill()
                process.join()
                killed += 1
                saved = sorted(path.name for path in two.glob("checkpoints/*"))
                print(f"{killed}: killed after {moment:.1f} s; {', '.join(saved) or 'no checkpoint'}", flush=True)
            else:
                assert process.exitcode == 0, (folder / "output.txt").read_text()
                compare(one, two)
                shutil.rmtree(two)
                finished += 1
                print("finished: the same results", flush=True)
        left = [path.name for path in Path(temporary).iterdir()]
    print(f"{killed} kills, {finished} finished runs; left in the temporary folder: {left}")


if __name__ == "__main__":
    main()
