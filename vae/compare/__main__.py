"""Compare runs and sweeps: python -m vae.compare outputs/sweeps/... [more folders ...] [out=FOLDER].

Prints a table of the runs: the keys in which they differ and their test metrics, best run first, marked with a star.
Writes compare.html, a page with curves, pictures and scores that works offline, and compare.csv, one row per run, to
the first of the folders or to `out`. It changes no run, does not train and needs no network.
"""

import csv
import gc
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from vae.compare import page
from vae.config.command_line import parse_arguments, run_command
from vae.errors import UserError
from vae.runs.atomic_files import atomic_write
from vae.runs.results_table import Row, build_rows, format_table, to_records
from vae.runs.run_folder import find_runs
from vae.terminal import show


class Arguments(BaseModel, strict=True, extra="forbid"):
    out: str = Field("", min_length=1, description="a folder")


def parse_command_line(argv: Sequence[str]) -> tuple[list[Path], Path]:
    """Return the folders to compare, whose names may contain a =, and the output folder."""
    folders = [arg for arg in argv if "=" not in arg or "/" in arg.partition("=")[0] or Path(arg).is_dir()]
    given = parse_arguments(Arguments, [arg for arg in argv if arg not in folders])
    if not folders:
        raise UserError(
            "expected one or more folders of runs or sweeps, such as outputs/sweeps/2026-11-23_14-30-05-123456"
        )
    return list(map(Path, folders)), Path(given.out or folders[0])


def to_csv(rows: Sequence[Row]) -> str:
    """Return a CSV with one row per run: status, differing keys and all test metrics."""
    records = to_records(rows)
    file = io.StringIO()
    writer = csv.DictWriter(file, records[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def main(argv: Sequence[str]) -> None:
    folders, out = parse_command_line(argv)
    rows = build_rows(find_runs(folders))
    show(format_table(rows))
    out.mkdir(parents=True, exist_ok=True)
    for name, content in {"compare.html": page.render_html(rows, out), "compare.csv": to_csv(rows)}.items():
        atomic_write(content, out / name)
        show(os.path.relpath(out / name))


def cli() -> int:
    gc.disable()  # with thousands of runs, garbage collection takes a sixth of the time and frees next to nothing
    try:
        return run_command(main, __doc__, "stopped")
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(cli())
