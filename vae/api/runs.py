"""Several runs: their table, and a page that compares them. Nothing here imports torch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from vae.api.run import Run
from vae.compare.page import render_html
from vae.runs.atomic_files import atomic_write
from vae.runs.results_table import build_rows, format_table, format_value, result_cells, to_records
from vae.runs.run_folder import find_runs

if TYPE_CHECKING:
    import pandas as pd


class Runs(Sequence[Run]):
    """Runs, best first: by test/log_px, then by test/elbo, then those without either."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.rows = build_rows(list(runs))
        self.runs: list[Run] = [row.run for row in self.rows]  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> "Runs": ...
    def __getitem__(self, index: int | slice) -> "Run | Runs":
        return Runs(self.runs[index]) if isinstance(index, slice) else self.runs[index]

    @property
    def table(self) -> "pd.DataFrame":
        """One row per run: its folder, status, the keys in which the runs differ, and all test metrics."""
        import pandas as pd

        return pd.DataFrame(to_records(self.rows))

    def save_page(self, file: str | Path) -> Path:
        """Write the page that `vae.compare` makes: curves, pictures and scores of all runs. It works offline."""
        atomic_write(render_html(self.rows, Path(file).parent), Path(file))
        return Path(file)

    def __repr__(self) -> str:
        return format_table(self.rows)

    def _repr_html_(self) -> str:
        import pandas as pd

        settings = [{key: format_value(value) for key, value in row.values.items()} for row in self.rows]
        cells = [keys | result_cells(row) for keys, row in zip(settings, self.rows, strict=True)]
        return pd.DataFrame(cells).to_html(index=False)


def load_runs(*folders: str | Path, trust: bool = False, config_dir: str = "") -> Runs:
    """Load all runs in these folders and their subfolders; without one, in outputs/. The other arguments are of `load`.

    Raises UserError if one of the folders contains no run.
    """
    found = find_runs(map(Path, folders or ["outputs"]))
    return Runs(Run(**vars(run), trust=trust, config_dir=config_dir) for run in found)
