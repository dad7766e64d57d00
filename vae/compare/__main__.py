"""Compare runs and sweeps: python -m vae.compare outputs/sweeps/... [more folders ...] [out=FOLDER].

Prints what differs between the runs and what came of each, the best first and marked with a star; and writes, to the
first of the folders or to `out`, compare.html, one file with their curves, pictures and scores, that needs no network,
and compare.csv, a row a run. It reads the folders alone: nothing is trained, fetched or sent.
"""

import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from vae.compare import page
from vae.config.command_line import arguments, command
from vae.errors import UserError
from vae.runs import results_table as table
from vae.runs import run_folder as runs


class Arguments(BaseModel, strict=True, extra="forbid"):
    out: str = Field("", min_length=1, description="a folder")


def read(typed: Sequence[str]) -> tuple[list[Path], Path]:
    """The folders to compare, which may have a = in their names, and that for what is written."""
    folders = [text for text in typed if "=" not in text or "/" in text.partition("=")[0] or Path(text).is_dir()]
    given = arguments(Arguments, [text for text in typed if text not in folders])
    if not folders:
        raise UserError("expected the folders of runs or sweeps, such as outputs/sweeps/2026-11-23_14-30-05-123456")
    return list(map(Path, folders)), Path(given.out or folders[0])


def rectangle(rows: Sequence[table.Row]) -> str:
    """The CSV: what differs and every test metric, a row a run."""
    metrics = dict.fromkeys(name for row in rows for name in row.run.summary)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["folder", "status", "reason", *rows[0].values, *metrics, "seconds"])
    for row in rows:
        run = row.run
        values = ["" if value is None else table.shown(value) for value in row.values.values()]
        scores = [run.summary.get(name, "") for name in metrics]
        writer.writerow([run.folder, run.status, run.reason or "", *values, *scores, run.seconds or ""])
    return file.getvalue()


def main(typed: Sequence[str]) -> None:
    folders, out = read(typed)
    found = runs.find(folders)
    rows = table.rows(found)
    print(table.text(found))
    out.mkdir(parents=True, exist_ok=True)
    for name, text in {"compare.html": page.html(rows), "compare.csv": rectangle(rows)}.items():
        runs.write(text, out / name)
        print(os.path.relpath(out / name))


def cli() -> int:
    return command(main, __doc__, "stopped")


if __name__ == "__main__":
    sys.exit(cli())
