"""Run the recipes and compare their results with the published ones: python benchmarks/results.py [BUDGET].

BUDGET is cpu (forty minutes for all recipes on 2 CPU cores) or full (as published). Each run has a folder in
outputs/results/<budget>/: finished runs are skipped, interrupted ones are resumed. After each run the table is written
to docs/tables/results_<budget>.md; there, runs that are not finished are "open". docs/images/results_<budget>.png shows
what was reached against what was expected.
"""

import csv
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import matplotlib as mpl
import yaml
from doc_tables import describe_machine, markdown_table, write_table
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
BUDGETS = ("cpu", "full")
HEADER = [
    "`python train.py`",
    "metric",
    "expected",
    "reached",
    "expected - reached",
    "active units",
    "epochs",
    "time",
]


def train(arguments: list[str], folder: Path) -> int:
    """Start or resume a run and return its exit code; add the seconds it took to the file `seconds` in its folder."""
    resumed = (folder / "checkpoints" / "last.ckpt").exists()
    if not resumed:
        shutil.rmtree(folder, ignore_errors=True)  # interrupted before its first checkpoint: start again
    command = [f"resume={folder}"] if resumed else [*arguments, f"hydra.run.dir={folder}"]
    seconds_file, start_time = folder / "seconds", time.monotonic()
    previous_seconds = float(seconds_file.read_text()) if seconds_file.exists() else 0.0
    with subprocess.Popen([sys.executable, "train.py", *command], cwd=ROOT) as run:
        try:
            return run.wait()
        except KeyboardInterrupt:  # the run receives it too, and stops after the current step
            run.wait()
            raise
        finally:
            if folder.exists():
                seconds_file.write_text(f"{previous_seconds + time.monotonic() - start_time:.0f}")


def table_row(recipe: dict, arguments: list[str], folder: Path) -> list[str]:
    """Return the row of a run; its results are "open" if it is not finished."""
    metric, expected = recipe["metric"], recipe.get("expected")
    cells = [f"`{shlex.join(arguments)}`", metric.removeprefix("test/"), "" if expected is None else f"{expected:.2f}"]
    if not (folder / "summary.json").exists():
        return [*cells, "open", "", "", "", ""]
    summary = json.loads((folder / "summary.json").read_text())
    error = f" +- {summary['test/log_px_se']:.2f}" if metric == "test/log_px" else ""
    difference = "" if expected is None else f"{expected - summary[metric]:.2f}"
    with (folder / "metrics.csv").open() as file:
        epochs = max(int(float(row["epoch"])) for row in csv.DictReader(file) if row["epoch"])
    minutes, seconds = divmod(int((folder / "seconds").read_text()), 60)
    cells += [f"{summary[metric]:.2f}{error}", difference, str(summary["test/active_units"]), str(epochs)]
    return [*cells, f"{minutes} min {seconds:02} s"]


def draw_points(rows: list[list[str]], path: Path) -> None:
    """Draw log p(x) as reached, with its standard error, against log p(x) as expected: one point for each row."""
    points = []
    for name, metric, expected, reached, *_ in rows:
        if metric == "log_px" and expected and reached != "open":
            value, _, error = reached.partition(" +- ")
            points.append((float(expected), float(value), float(error), name.strip("`").removeprefix("experiment=")))
    if not points:
        return
    points.sort(reverse=True)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="published log p(x), nats", ylabel="reached log p(x), nats")
    values = [value for point in points for value in point[:2]]
    axes.axline((min(values), min(values)), slope=1, color="grey", linewidth=1, zorder=0)
    colours = mpl.color_sequences["tab10"]
    for i, (expected, reached, error, name) in enumerate(points):
        label = textwrap.shorten(name, 55, placeholder=" ...")
        axes.errorbar(expected, reached, error, fmt="os^"[i // 10 % 3], color=colours[i % 10], label=label)
    figure.legend(loc="outside lower center", fontsize="small", ncols=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def planned_runs(budget: str) -> list[tuple[dict, list[str], Path]]:
    """Return (recipe, arguments of train.py, run folder) of every recipe; other arguments get another folder."""
    runs = []
    for recipe in yaml.safe_load((ROOT / "benchmarks" / "results.yaml").read_text()):
        arguments = shlex.split(recipe["run"]) + (shlex.split(recipe["cpu"]) if budget == "cpu" else [])
        name = recipe["run"].removeprefix("experiment=").translate(str.maketrans(" =/", "_--"))
        fingerprint = hashlib.sha256(shlex.join(arguments).encode()).hexdigest()[:8]
        runs.append((recipe, arguments, ROOT / "outputs" / "results" / budget / f"{name}-{fingerprint}"))
    return runs


def main(budget: str) -> int:
    if budget not in BUDGETS:
        print(f"BUDGET={budget}: expected {' or '.join(BUDGETS)}", file=sys.stderr)
        return 2
    runs = planned_runs(budget)
    failed = False
    for i, (_, arguments, folder) in enumerate(runs, 1):
        print(f"\n[{i}/{len(runs)}] python train.py {shlex.join(arguments)}", flush=True)
        if not (folder / "summary.json").exists():
            code = train(arguments, folder)
            if code >= 128:  # stopped by a signal
                return code
            failed |= code != 0
        rows = [table_row(*run) for run in runs]
        path = write_table(f"results_{budget}", markdown_table(HEADER, rows), describe_machine())
        draw_points(rows, ROOT / "docs" / "images" / f"results_{budget}.png")
    print(f"\n{path}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main("".join(sys.argv[1:]) or "cpu"))
    except KeyboardInterrupt:
        sys.exit(130)
