"""Rerun the recipes and compare them with what was published: python benchmarks/results.py [BUDGET].

The budgets are cpu, forty minutes on 2 CPU cores for all of them, and full, as published. Every run has its folder in
outputs/results/<budget>/; what is finished there is not run again, what was cut off goes on. The table is written anew
after each, to outputs/results/<budget>.md.
"""

import csv
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
BUDGETS = ("cpu", "full")
COLUMNS = ("`python train.py`", "metric", "expected", "reached", "active units", "epochs", "time")


def train(arguments: list[str], folder: Path) -> int:
    """Begin or go on with a run; its exit code. The seconds it took, in all its parts, are kept in its folder."""
    resumed = (folder / "checkpoints" / "last.ckpt").exists()
    if not resumed:
        shutil.rmtree(folder, ignore_errors=True)  # what was stopped within its first epoch begins anew
    what = [f"resume={folder}"] if resumed else [*arguments, f"hydra.run.dir={folder}"]
    clock, since = folder / "seconds", time.monotonic()
    before = float(clock.read_text()) if clock.exists() else 0.0
    with subprocess.Popen([sys.executable, "train.py", *what], cwd=ROOT) as run:
        try:
            return run.wait()
        except KeyboardInterrupt:  # the run has it too, and stops after the step under way
            run.wait()
            raise
        finally:
            if folder.exists():
                clock.write_text(f"{before + time.monotonic() - since:.0f}")


def line(cells: Iterable[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |\n"


def row(recipe: dict[str, str], arguments: list[str], folder: Path) -> str:
    """A line of the table; of a run that is not finished, open."""
    metric = recipe["metric"]
    known = [f"`{shlex.join(arguments)}`", metric.removeprefix("test/"), str(recipe.get("expected", ""))]
    if not (folder / "summary.json").exists():
        return line([*known, "open", "", "", ""])
    summary = json.loads((folder / "summary.json").read_text())
    error = f" +- {summary['test/log_px_se']:.2f}" if metric == "test/log_px" else ""
    with (folder / "metrics.csv").open() as file:
        epochs = max(int(float(record["epoch"])) for record in csv.DictReader(file) if record["epoch"])
    minutes, seconds = divmod(int((folder / "seconds").read_text()), 60)
    reached = [f"{summary[metric]:.2f}{error}", str(summary["test/active_units"]), str(epochs)]
    return line([*known, *reached, f"{minutes} min {seconds:02} s"])


def main(budget: str) -> int:
    if budget not in BUDGETS:
        print(f"BUDGET={budget}: expected {' or '.join(BUDGETS)}", file=sys.stderr)
        return 2
    recipes = yaml.safe_load((ROOT / "benchmarks" / "results.yaml").read_text())
    results = ROOT / "outputs" / "results"
    runs = []
    for recipe in recipes:
        arguments = shlex.split(recipe["run"]) + (shlex.split(recipe["cpu"]) if budget == "cpu" else [])
        name = recipe["run"].removeprefix("experiment=").translate(str.maketrans(" =/", "_--"))
        fingerprint = hashlib.sha256(shlex.join(arguments).encode()).hexdigest()[:8]
        runs.append((recipe, arguments, results / budget / f"{name}-{fingerprint}"))
    failed = 0
    for i, (_, arguments, folder) in enumerate(runs):
        print(f"\n[{i + 1}/{len(runs)}] python train.py {shlex.join(arguments)}", flush=True)
        if not (folder / "summary.json").exists():
            code = train(arguments, folder)
            if code >= 128:  # stopped by a signal
                return code
            failed += code != 0
        table = results / f"{budget}.md"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(line(COLUMNS) + line("---" for _ in COLUMNS) + "".join(row(*run) for run in runs))
    print(f"\n{table.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main("".join(sys.argv[1:]) or "cpu"))
    except KeyboardInterrupt:
        sys.exit(130)
