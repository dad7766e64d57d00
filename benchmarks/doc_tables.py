"""Write measured tables as Markdown to docs/tables/, from where the documentation includes them."""

import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

TABLES = Path(__file__).parent.parent / "docs" / "tables"


def markdown_row(cells: Iterable[str]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join([markdown_row(header), "|" + "---|" * len(header), *map(markdown_row, rows)])


def median_and_range(values: Sequence[float], digits: int) -> list[str]:
    """Return two cells: the median of these values, and the smallest and the largest one."""
    return [f"{statistics.median(values):.{digits}f}", f"{min(values):.{digits}f} to {max(values):.{digits}f}"]


def describe_machine(device: str = "") -> str:
    """Return the date, the device (by default the CPU and its number of cores) and the versions of the software."""
    if not device:
        cpuinfo = Path("/proc/cpuinfo")
        models = re.findall(r"model name\s*: *(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
        name = models[0] if models else platform.processor() or platform.machine()
        device = f"{name}, {os.cpu_count()} cores"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning"))
    return f"{date.today()}, {device}; Python {platform.python_version()}, {packages}"


def write_table(name: str, table: str, machine: str) -> str:
    """Write a table, and below it a line that describes the machine, to docs/tables/<name>.md; return its path."""
    path = TABLES / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{table}\n\n{machine}.\n")
    return os.path.relpath(path)


def write_times(name: str, table: str, machine: str) -> str:
    """Write a table of times; return its path, and how the times compare with those of the table before."""
    path = TABLES / f"{name}.md"
    before = path.read_text().strip() if path.exists() else ""
    new, old = first_numbers(table), first_numbers(before)
    ratios = [new[row] / old[row] for row in new.keys() & old.keys()]
    written = write_table(name, table, machine)
    if not ratios:
        return written
    return f"{written}: {statistics.median(ratios):.2f} times those of {before.splitlines()[-1]}"


def first_numbers(table: str) -> dict[str, float]:
    """Return the first number of each row of a Markdown table by the first cell of the row."""
    rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|"))
    numbers = {row[0]: [cell for cell in row[1:] if re.fullmatch(r"\d+(\.\d+)?", cell)] for row in rows}
    return {name: float(found[0]) for name, found in numbers.items() if found and float(found[0])}
