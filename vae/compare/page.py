"""Render runs as a self-contained HTML page. Nothing here imports torch."""

import base64
import io
import json
import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vae.runs.results_table import Row, format_value, seed_means
from vae.runs.run_folder import RunFolder

log = logging.getLogger(__name__)

TEMPLATE, SCRIPT = (Path(__file__).parent / name for name in ("page.template.html", "page.js"))
AXES = ("step", "images_seen", "seconds")
TERMS = ("elbo", "kl", "log_likelihood")  # shown first; terms of other objectives follow
IGNORED_METRICS = ("objective", "log_px", "log_px_se")  # not comparable between runs, or not a curve
PICTURES = ("samples", "reconstructions")
MAX_POINTS, MIN_POINTS, ALL_POINTS = 500, 20, 50_000  # of a curve, and of the curves of all runs
MAX_WIDTH = 400  # of a picture, in pixels
EMBEDDED = 100  # runs whose pictures are in the page, the best; the pictures of others are linked


def rounded(value: float | None) -> float | None:
    """Round to 7 significant digits, to save space; None for inf and nan, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def number_or_text(value: Any) -> int | float | str:
    """Return a finite number unchanged, and any other config value as text."""
    return value if type(value) is int or (type(value) is float and math.isfinite(value)) else format_value(value)


def read_curves(run: RunFolder, split: str, points: int = MAX_POINTS) -> dict[str, list[float | None]]:
    """Return the metrics of a split and their x-axes, by name, with at most `points` values each."""
    in_split = {name for name in set().union(*run.history) if name.startswith(f"{split}/")}
    rows = [row for row in run.history if not in_split.isdisjoint(row)]
    kept = rows[:: math.ceil(len(rows) / (points - 1)) or 1]
    if kept and kept[-1] is not rows[-1]:
        kept.append(rows[-1])
    names = dict.fromkeys(name for row in kept for name in row if name in AXES or name in in_split)
    columns = {name.removeprefix(f"{split}/"): [rounded(row.get(name)) for row in kept] for name in names}
    return {name: column for name, column in columns.items() if name not in IGNORED_METRICS}


def thumbnail(path: Path) -> str | None:
    """Return a picture as a small data: URL; None if it is missing or, with a warning, if it cannot be read."""
    if not path.exists():
        return None
    from datamodules.image_files import open_image

    try:
        with open_image(path) as image:
            small = image.convert("RGB")
    except Exception as error:  # noqa: BLE001 (Pillow raises many kinds of exceptions on a damaged file)
        log.warning(f"skipped {path}: {error}")
        return None
    small.thumbnail((MAX_WIDTH, 2 * MAX_WIDTH))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=75, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def linked(path: Path, out: Path) -> str | None:
    """Return the URL of a picture relative to the folder of the page; None if it is missing."""
    return quote(os.path.relpath(path, out)) if path.exists() else None


def page_data(table: Sequence[Row], out: Path) -> dict[str, Any]:
    """Return the data of the page in the folder `out` as JSON values."""
    points = min(MAX_POINTS, max(MIN_POINTS, ALL_POINTS // len(table)))

    def pictures(i: int, folder: Path) -> dict[str, str | None]:
        files = {name: folder / "figures" / f"{name}.png" for name in PICTURES}
        return {name: thumbnail(file) if i < EMBEDDED else linked(file, out) for name, file in files.items()}

    runs: list[dict[str, Any]] = [
        {
            "name": format_value(row.name),
            "folder": str(row.run.folder),
            "status": row.run.status,
            "reason": row.run.failure,
            "best": row.best,
            "values": {key: number_or_text(value) for key, value in row.values.items()},
            "metrics": {name: rounded(value) for name, value in row.run.summary.items()}
            | {"seconds": rounded(row.run.seconds or None)},
            "curves": {split: read_curves(row.run, split, points) for split in ("train", "val")},
            "pictures": pictures(i, row.run.folder),
        }
        for i, row in enumerate(table)
    ]
    names = dict.fromkeys(name for run in runs for columns in run["curves"].values() for name in columns)
    return {
        "keys": list(table[0].values),
        "terms": sorted((name for name in names if name not in AXES), key=lambda name: [*TERMS, name].index(name)),
        "metrics": list(dict.fromkeys(name for run in runs for name in run["metrics"])),
        "means": seed_means(table),
        "runs": runs,
    }


def render_html(table: Sequence[Row], out: Path) -> str:
    """Return the page in the folder `out`.

    Text from the runs is escaped, so that it cannot end the <script> element that holds it.
    """
    from plotly.offline import get_plotlyjs

    parts = {
        "plotly": get_plotlyjs(),
        "script": SCRIPT.read_text("utf-8"),
        "data": json.dumps(page_data(table, out), allow_nan=False).replace("<", "\\u003c"),
    }
    return re.sub(r"@(plotly|script|data)@", lambda match: parts[match[1]], TEMPLATE.read_text("utf-8"))
