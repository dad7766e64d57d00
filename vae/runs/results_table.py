"""The table of runs: their differing keys and test metrics, sorted, best run marked. Nothing here imports torch."""

import json
import math
import os
import shutil
import statistics
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vae.runs.run_folder import RunFolder, differing_keys

DATASET_KEYS = (
    "path",
    "length",
    "subset",
    "generation",
    "size",
    "colour",
    "binarize",
    "split",
    "split_seed",
    "test_size",
)
# The keys that determine the test set and how it is scored.
TEST_KEYS = ("dataset", *(f"dataset.{key}" for key in DATASET_KEYS), "test.K", "test.images")
RANKS = ("failed", "unfinished", "finished", "test/elbo", "test/log_px")  # worst first; the last two have a score


@dataclass(frozen=True)
class Row:
    """One run in the table."""

    run: RunFolder
    name: str
    values: dict[str, Any]  # the values of the keys in which the runs differ
    best: bool  # whether it is the best of the runs with comparable scores


def sort_key(run: RunFolder) -> tuple[int, float]:
    """Return the index of a run in RANKS and its score there; higher is better."""
    for metric in reversed(RANKS[3:]):
        if math.isfinite(value := run.summary.get(metric, math.nan)):
            return RANKS.index(metric), value
    return RANKS.index(run.status), 0.0


def comparison_key(run: RunFolder) -> dict[str, str]:
    """Return what must be equal for the scores of two runs to be comparable.

    That is the test set, the way it is scored, and whether pixels have probabilities or a density.
    """
    density = "test/log_px" in run.summary and "test/bits_per_dim" not in run.summary
    keys = {key: format_value(run.value(key)) for key in TEST_KEYS}
    return keys | {"values": "density" if density else "probability"}


def format_value(value: Any) -> str:
    """Format a config value as it is typed on the command line; "-" for None."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
    return "".join(letter if letter.isprintable() else " " for letter in text)


def format_overrides(values: dict[str, Any]) -> str:
    """Format the differing keys of a run as key=value pairs on one line."""
    return " ".join(f"{key}={format_value(value)}" for key, value in values.items() if value is not None)


def build_rows(runs: Sequence[RunFolder]) -> list[Row]:
    """Return one row per run, best first: sorted by log p(x), then by the ELBO, then runs without either score."""
    ranked = sorted(runs, key=sort_key, reverse=True)
    keys = differing_keys(runs)
    values = [{key: run.value(key) for key in keys} for run in ranked]
    name_counts = Counter(map(format_overrides, values))
    common = os.path.commonpath([run.folder.resolve().parent for run in runs])
    groups: set[str] = set()  # of comparable runs of which the best was found
    rows = []
    for run, own_values in zip(ranked, values, strict=True):
        has_score = sort_key(run)[0] >= RANKS.index("test/elbo")
        group = str(comparison_key(run)) if has_score else ""
        best = has_score and group not in groups
        groups.add(group)
        name = format_overrides(own_values)
        if not name or name_counts[name] > 1:
            name = f"{name} {run.folder.resolve().relative_to(common)}".strip()
        rows.append(Row(run, name, own_values, best))
    return rows


def result_cells(row: Row) -> dict[str, str]:
    """Return the results of a run as text, by column."""
    test = {name.removeprefix("test/"): value for name, value in row.run.summary.items()}
    numbers = {name: f"{test[name]:.2f}" if name in test else "-" for name in ("log_px", "log_px_se", "elbo", "kl")}
    return {
        "": "*" if row.best else "",
        "log_px": numbers["log_px"],
        "+-": numbers["log_px_se"],
        "elbo": numbers["elbo"],
        "kl": numbers["kl"],
        "active": f"{test['active_units']:.0f}" if "active_units" in test else "-",
        "seconds": f"{row.run.seconds:.0f}" if row.run.seconds else "-",
        "status": row.run.status,
    }


def to_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one record per run: folder, status, reason, differing keys as text, test metrics and seconds."""
    metrics = dict.fromkeys(name for row in rows for name in row.run.summary)
    records = []
    for row in rows:
        values = {key: "" if value is None else format_value(value) for key, value in row.values.items()}
        scores = {name: row.run.summary.get(name) for name in metrics}
        about = {"folder": str(row.run.folder), "status": row.run.status, "reason": row.run.failure or ""}
        records.append(about | values | scores | {"seconds": row.run.seconds or None})
    return records


def align_columns(table: Sequence[dict[str, str]]) -> list[str]:
    """Return the header line and one line per row, with words aligned to the left and numbers to the right."""
    padded = []
    for name in table[0]:
        column = [name, *(line[name] for line in table)]
        is_text = any(cell[:1].isalpha() and cell not in ("nan", "inf") for cell in column[1:])
        width = max(map(len, column))
        padded.append([cell.ljust(width) if is_text else cell.rjust(width) for cell in column])
    return ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]


def best_run_lines(table: Sequence[Row]) -> list[str]:
    """Return a line naming the best run; if scores are not all comparable, one line for each comparable group."""
    groups = {str(row.run.folder): comparison_key(row.run) for row in table if row.best}
    lines = []
    for folder, group in groups.items():
        distinct = [f"{key}={group[key]}" for key in group if len({other[key] for other in groups.values()}) > 1]
        lines.append(" ".join(["* best run", *(["with", *distinct] if distinct else [])]) + f": {folder}")
    return lines


def seed_means(table: Sequence[Row]) -> list[dict[str, str]]:
    """Return one line per setting, by column: means and standard deviations of its scores over seeds, best first.

    No lines if no setting has scores of two seeds.
    """
    groups: dict[str, list[Row]] = {}
    for row in table:
        if "seed" in row.values and sort_key(row.run)[0] >= RANKS.index("test/elbo"):
            setting = {key: value for key, value in row.values.items() if key != "seed"}
            groups.setdefault(format_overrides(setting), []).append(row)
    if max(map(len, groups.values()), default=0) < 2:
        return []

    def cell(name: str, rows: Sequence[Row]) -> str:
        scores = [row.run.summary[f"test/{name}"] for row in rows if f"test/{name}" in row.run.summary]
        deviation = f" +- {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        return f"{statistics.fmean(scores):.2f}{deviation}" if scores else "-"

    def score(rows: Sequence[Row]) -> tuple[int, float]:
        kinds, scores = zip(*(sort_key(row.run) for row in rows), strict=True)
        return min(kinds), statistics.fmean(scores)

    lines = []
    for rows in sorted(groups.values(), key=score, reverse=True):
        keys = {key: format_value(value) for key, value in rows[0].values.items() if key != "seed"}
        lines.append(keys | {"seeds": str(len(rows))} | {name: cell(name, rows) for name in ("log_px", "elbo", "kl")})
    return lines


def format_table(table: Sequence[Row], width: int | None = None) -> str:
    """Format the runs as a table.

    If it is wider than the terminal, or its columns do not identify each run, the name of a run is below its line.
    """
    width = width or min(120, shutil.get_terminal_size((100, 24)).columns)
    settings = [{key: format_value(value) for key, value in row.values.items()} for row in table]
    results = [result_cells(row) for row in table]
    lines = align_columns([{"": result[""]} | keys | result for keys, result in zip(settings, results, strict=True)])
    fits = max(map(len, lines)) <= width and all(row.name == format_overrides(row.values) for row in table)
    if not fits:
        lines = align_columns(results)
    output = [lines[0]]
    for row, line in zip(table, lines[1:], strict=True):
        failure = row.run.failure if row.run.status == "failed" else None
        below = [None if fits else row.name, failure and format_value(" ".join(failure.split()))]
        output.append(line)
        for paragraph in filter(None, below):
            output += textwrap.wrap(paragraph, width, initial_indent="   ", subsequent_indent="     ")
    if means := seed_means(table):
        output += ["", "means and standard deviations over seeds", *align_columns(means), ""]
    return "\n".join(output + best_run_lines(table))
