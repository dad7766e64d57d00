"""Runs as one HTML file that needs no other: what page.template.html and page.js show. Nothing imports torch."""

import base64
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae.runs.results_table import Row, shown
from vae.runs.run_folder import Run

TEMPLATE, SCRIPT = (Path(__file__).parent / name for name in ("page.template.html", "page.js"))
AXES = ("step", "images_seen", "seconds")
TERMS = ("elbo", "kl", "log_likelihood")  # come first; what an objective has in their place follows
IGNORED_KEYS = ("objective", "log_px", "log_px_se")  # means another thing in each run, or has no curve
PICTURES = ("samples", "reconstructions")
POINTS, WIDTH = 500, 400  # the most of a curve, and of a picture


def number(value: float | None) -> float | None:
    """With as many digits as can be seen; JSON has no infinity."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def plain(value: Any) -> int | float | str:
    """A number as it is, anything else as it is typed."""
    return value if type(value) is int or (type(value) is float and math.isfinite(value)) else shown(value)


def curves(run: Run, split: str) -> dict[str, list[float | None]]:
    """The columns of a split's records, thinned."""
    records = [record for record in run.records if any(name.startswith(f"{split}/") for name in record)]
    kept = records[:: math.ceil(len(records) / (POINTS - 1)) or 1]
    if kept and kept[-1] is not records[-1]:
        kept.append(records[-1])
    names = dict.fromkeys(name for record in kept for name in record if name in AXES or name.startswith(f"{split}/"))
    found = {name.removeprefix(f"{split}/"): [number(record.get(name)) for record in kept] for name in names}
    return {name: column for name, column in found.items() if name not in IGNORED_KEYS}


def picture(path: Path) -> str | None:
    """As a data: URL, small; None where there is no picture that can be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except OSError:
        return None
    small.thumbnail((WIDTH, 2 * WIDTH))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=75, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def data(table: Sequence[Row]) -> dict[str, Any]:
    """What the page shows, as JSON has it."""
    told: list[dict[str, Any]] = [
        {
            "name": shown(row.name),
            "folder": str(row.run.folder),
            "status": row.run.status,
            "reason": row.run.reason,
            "best": row.best,
            "values": {key: plain(value) for key, value in row.values.items()},
            "metrics": {name: number(value) for name, value in row.run.summary.items()}
            | {"seconds": number(row.run.seconds or None)},
            "curves": {split: curves(row.run, split) for split in ("train", "val")},
            "pictures": {name: picture(row.run.folder / "figures" / f"{name}.png") for name in PICTURES},
        }
        for row in table
    ]
    seen = dict.fromkeys(name for run in told for columns in run["curves"].values() for name in columns)
    return {
        "keys": list(table[0].values),
        "terms": sorted((name for name in seen if name not in AXES), key=lambda name: [*TERMS, name].index(name)),
        "metrics": list(dict.fromkeys(name for run in told for name in run["metrics"])),
        "runs": told,
    }


def html(table: Sequence[Row]) -> str:
    """The page; nothing in the runs can end the script that holds them."""
    from plotly.offline import get_plotlyjs

    parts = {
        "plotly": get_plotlyjs(),
        "script": SCRIPT.read_text("utf-8"),
        "data": json.dumps(data(table), allow_nan=False).replace("<", "\\u003c"),
    }
    return re.sub(r"@(plotly|script|data)@", lambda found: parts[found[1]], TEMPLATE.read_text("utf-8"))
