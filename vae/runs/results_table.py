"""What came of runs, side by side, sorted and with the best marked. Nothing here imports torch."""

import json
import math
import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vae.runs.run_folder import Run, differences

IMAGES = ("path", "generation", "size", "colour", "binarize", "split", "split_seed", "test_size")
TESTED = ("dataset", *(f"dataset.{key}" for key in IMAGES), "test.K", "test.images")  # on what, and how
RANKS = ("failed", "unfinished", "finished", "test/elbo", "test/log_px")  # from the worst; the last two have a score


@dataclass(frozen=True)
class Row:
    run: Run
    name: str
    values: dict[str, Any]  # of the keys in which the runs differ
    best: bool  # of the runs whose nats compare with its own


def score(run: Run) -> tuple[int, float]:
    """Its place in RANKS and its value there: the larger, the better."""
    for metric in reversed(RANKS[3:]):
        if math.isfinite(value := run.summary.get(metric, math.nan)):
            return RANKS.index(metric), value
    return RANKS.index(run.status), 0.0


def measure(run: Run) -> dict[str, str]:
    """Nats of two runs compare where this is the same: the test, and whether pixels have probabilities or a density."""
    density = "test/log_px" in run.summary and "test/bits_per_dim" not in run.summary
    return {key: shown(run.value(key)) for key in TESTED} | {"values": "density" if density else "probability"}


def shown(value: Any) -> str:
    """A value of a config as it is typed, and on one line; a dash for none."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
    return "".join(letter if letter.isprintable() else " " for letter in text)


def named(values: dict[str, Any]) -> str:
    """What differs, in one line."""
    return " ".join(f"{key}={shown(value)}" for key, value in values.items() if value is not None)


def rows(runs: Sequence[Run]) -> list[Row]:
    """A row a run, the best first: by log p(x), those without it by the ELBO, and last those that did not end."""
    ranked = sorted(runs, key=score, reverse=True)
    values = [{key: run.value(key) for key in differences(runs)} for run in ranked]
    alike = Counter(map(named, values))
    inside = os.path.commonpath([run.folder.resolve().parent for run in runs])
    best: dict[str, Run] = {}
    for run in ranked:
        if score(run)[0] >= RANKS.index("test/elbo"):
            best.setdefault(str(measure(run)), run)
    found = []
    for run, its in zip(ranked, values, strict=True):
        name = named(its)
        if not name or alike[name] > 1:
            name = f"{name} {run.folder.resolve().relative_to(inside)}".strip()
        found.append(Row(run, name, its, best.get(str(measure(run))) is run))
    return found


def cells(row: Row) -> dict[str, str]:
    """What the terminal shows of a run, by column."""
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


def aligned(table: Sequence[dict[str, str]]) -> list[str]:
    """The header and a line for each; words begin, and numbers end, where those of their column do."""
    padded = []
    for name in table[0]:
        column = [name, *(line[name] for line in table)]
        words = any(cell[:1].isalpha() and cell not in ("nan", "inf") for cell in column[1:])
        width = max(map(len, column))
        padded.append([cell.ljust(width) if words else cell.rjust(width) for cell in column])
    return ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]


def winners(table: Sequence[Row]) -> list[str]:
    """A line for the best; where nats do not all compare, one for each kind, with what sets it apart."""
    measures = {str(row.run.folder): measure(row.run) for row in table if row.best}
    lines = []
    for folder, its in measures.items():
        apart = [f"{key}={its[key]}" for key in its if len({other[key] for other in measures.values()}) > 1]
        lines.append(" ".join(["* the best", *(["of", *apart] if apart else [])]) + f": {folder}")
    return lines


def text(runs: Sequence[Run], width: int | None = None) -> str:
    """The rows as a table; where it is wider than the screen, or does not tell runs apart, their names stand below."""
    width = width or min(120, shutil.get_terminal_size((100, 24)).columns)
    table = rows(runs)
    settings = [{key: shown(value) for key, value in row.values.items()} for row in table]
    outcomes = [cells(row) for row in table]
    lines = aligned([{"": its[""]} | typed | its for typed, its in zip(settings, outcomes, strict=True)])
    fits = max(map(len, lines)) <= width and all(row.name == named(row.values) for row in table)
    if not fits:
        lines = aligned(outcomes)
    found = [lines[0]]
    for row, line in zip(table, lines[1:], strict=True):
        reason = row.run.reason if row.run.status == "failed" else None
        below = [None if fits else row.name, reason and shown(" ".join(reason.split()))]
        found.append(line)
        for sentence in filter(None, below):
            found += textwrap.wrap(sentence, width, initial_indent="   ", subsequent_indent="     ")
    return "\n".join(found + winners(table))
