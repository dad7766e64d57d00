"""Execute the notebooks in an empty folder, and keep their outputs small: python notebooks/execute.py [lesson.ipynb].

Datasets are read from VAE_DATA_DIR or data/. Lines on stderr and progress bars are left out, the lines of a cell are
one output, and large pictures are reduced to 32 colours.
"""

import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
LARGE = 20_000  # bytes of a picture


def shrink(png: str) -> str:
    """Reduce a large picture, base64, to 32 colours if this makes it smaller."""
    raw, file = base64.b64decode(png), io.BytesIO()
    if len(raw) < LARGE:
        return png
    Image.open(io.BytesIO(raw)).convert("RGB").quantize(32).save(file, "PNG", optimize=True)
    return base64.b64encode(min(raw, file.getvalue(), key=len)).decode()


def execute(path: Path) -> None:
    """Execute a notebook and write it back."""
    notebook = nbformat.read(path, 4)
    metadata, start = dict(notebook.metadata), time.time()
    os.environ.setdefault("VAE_DATA_DIR", str(FOLDER.parent / "data"))
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=None, coalesce_streams=True, resources=resources).execute()
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.metadata.pop("execution", None)
        cell.outputs = [
            output
            for output in cell.outputs
            if output.get("name") != "stderr" and not any("widget" in kind for kind in output.get("data", {}))
        ]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = shrink(output.data["image/png"])
    notebook.metadata = nbformat.NotebookNode(metadata)
    nbformat.write(notebook, path)
    print(f"{path.name}: {time.time() - start:.0f} s, {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.name for path in FOLDER.glob("*.ipynb")):
        execute(FOLDER / name)
