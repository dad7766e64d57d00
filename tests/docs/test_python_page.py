"""The code of docs/python.md runs, in its order; the lines of its table are those of the programs below it."""

import re
import sys
from types import ModuleType

import numpy as np
import pytest
from pages import ROOT, blocks
from PIL import Image

PAGE = (ROOT / "docs" / "python.md").read_text()
GUIDE, COMPARISON = PAGE.split("## Compared with other libraries")
BLOCKS = [content for info, content in blocks(GUIDE) if info == "python"]
EXAMPLE_RUN = '"outputs/2026-11-23/14-30-05-123456"'


@pytest.mark.slow
def test_the_code_runs_in_its_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_pictures").mkdir()
    for i in range(40):
        picture = np.random.default_rng(i).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "my_pictures" / f"{i}.png")
    page = ModuleType("python_page")
    monkeypatch.setitem(sys.modules, "python_page", page)
    assert len(BLOCKS) >= 9
    for block in BLOCKS:
        code = re.sub(r"trainer__max_epochs=\d+", 'trainer__max_epochs=1, logger="csv", test__K=2', block)
        exec(compile(code.replace(EXAMPLE_RUN, "runs[0].folder"), "docs/python.md", "exec"), page.__dict__)
    assert type(page.runs).__name__ == "Runs"
    assert page.log_px.shape == (8,)
    assert len(page.strip) == 11
    assert (tmp_path / "compare.html").exists()


def test_the_lines_of_the_programs_are_counted():
    stated = re.findall(r"^\| (?:load|encode|sample|train|own)[^|]*" + r"\| (\d+) lines?[^|]*" * 3, COMPARISON, re.M)
    assert len(stated) == 5
    programs = [content for info, content in blocks(COMPARISON) if info == "python"]
    assert len(programs) == 3
    for column, program in zip(zip(*stated, strict=True), programs, strict=True):
        lines = [line for line in program.splitlines() if line.strip()]
        starts = [i for i, line in enumerate(lines) if re.search(r"# .*: \d+ lines?$", line)]
        found = [end - start for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)]
        claimed = [int(re.search(r": (\d+) lines?$", lines[start])[1]) for start in starts]
        assert found == claimed == list(map(int, column))[: len(found)]


def test_the_names_of_the_table_are_counted_and_in_the_programs():
    programs = [content for info, content in blocks(COMPARISON) if info == "python"]
    rows = [line.strip("| ").split(" | ")[1:] for line in COMPARISON.splitlines() if re.match(r"\| .* lines?,", line)]
    assert [len(row) for row in rows] == [3] * 5
    for row in rows:
        for cell, program in zip(row, programs, strict=True):
            names = re.findall(r"`(\w+)`", cell)
            assert int(re.search(r"(\d+) names?:", cell)[1]) == len(set(names)) == len(names)
            assert all(re.search(rf"\b{name}\b", program) for name in names)
