"""The logger that writes <run_dir>/metrics.csv, in every run."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from vae.runs.atomic_files import atomic_write, named_errors
from vae.runs.run_folder import read_cells, read_metrics


class MetricsCSV(Logger):
    """Write <run_dir>/metrics.csv: one row per call, on disk when the call returns. A resumed run appends to it.

    The first column is step. A new metric adds a column.
    """

    name: str | None = None
    version: str | None = None

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"

    @property
    def rows(self) -> list[dict[str, float]]:
        """The rows of the file, without their empty cells."""
        return read_metrics(self.path)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {"step": step} | {name: float(value) for name, value in metrics.items()}
        columns = self._columns()
        if new := [name for name in row if name not in columns]:
            self._write(columns + new, [*read_cells(self.path)[1], row])
        else:
            with named_errors(self.path), self.path.open("a", newline="") as file:
                csv.DictWriter(file, columns, lineterminator="\n").writerow(row)

    def log_hyperparams(self, *_args: Any, **_kwargs: Any) -> None:
        """Do nothing: the config is in .hydra/config.yaml."""

    @rank_zero_only
    def drop_rows_after(self, step: int) -> None:
        """Remove the rows after this step and those of the test, which a resumed run logs again, and damaged ones."""
        columns, rows = read_cells(self.path)
        test_columns = [name for name in columns if name.startswith("test/")]
        kept = [row for row in rows if float(row["step"]) <= step and not any(map(row.get, test_columns))]
        if columns:
            self._write(columns, kept)
        elif self.path.exists():
            self.path.replace(self.path.with_name("metrics.csv.damaged"))

    def _columns(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file).fieldnames or [])

    def _write(self, columns: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
        file = io.StringIO()
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(file.getvalue(), self.path)
