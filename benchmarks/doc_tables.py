"""Write measured tables as Markdown to docs/tables/, from where the documentation includes them."""

import os
import platform
import re
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
