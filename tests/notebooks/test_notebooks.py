"""The notebooks run from top to bottom, with short trainings and data that need no download."""

import base64
import io
from itertools import pairwise

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image
from run_outputs import ROOT

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = 'EPOCHS = 1\nDIGITS = FACES = "digits"\nSPRITES = ["dataset=digits"]\nPAIR = 0, 1'


def pictures(notebook):
    """The PNG pictures that the cells show."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                yield base64.b64decode(output["data"]["image/png"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, 4)
    expected = len(list(pictures(notebook)))
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = PARAMETERS
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert len(list(pictures(notebook))) == expected >= 2
    for picture in pictures(notebook):
        assert Image.open(io.BytesIO(picture)).convert("L").getextrema()[0] < 250
    assert list((tmp_path / "outputs").rglob("summary.json"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_outputs_are_small_and_complete(path):
    notebook = nbformat.read(path, 4)
    assert path.stat().st_size < 600_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    for cell in code:  # consecutive outputs would be shown with a gap between them
        streams = [output.get("name") for output in cell.outputs]
        assert not [a for a, b in pairwise(streams) if a == b == "stdout"]
    assert str(ROOT) not in path.read_text()
    assert "/tmp/" not in path.read_text()
