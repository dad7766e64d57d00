"""The README is short, its links lead somewhere, and the pages name code that exists."""

import ast
import re

import pytest
import yaml
from pages import PAGES, README, ROOT, blocks, name

CODE = (ROOT / "docs" / "code.md").read_text()
TEXT = {name(page): page.read_text() for page in PAGES}


def links(text):
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_readme_is_at_most_150_lines_with_a_picture_near_the_top():
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert "![" in "\n".join(lines[:12])
    assert max(len(line) for line in lines if not line.startswith("|")) <= 120


@pytest.mark.parametrize("target", [link for link in links(README.read_text()) if "://" not in link])
def test_links_of_the_readme_lead_to_files(target):
    assert (ROOT / target.partition("#")[0]).is_file()


def test_thumbnails_are_small():
    pictures = list((ROOT / "docs" / "images" / "thumbs").iterdir())
    assert len(pictures) >= 9
    assert all(picture.stat().st_size <= 100_000 for picture in pictures)


def test_every_picture_and_table_is_used():
    used = "\n".join(TEXT.values())
    for file in [*(ROOT / "docs" / "images").rglob("*.*"), *(ROOT / "docs" / "tables").iterdir()]:
        assert file.name in used, file


def test_pages_need_no_other_host():
    config = (ROOT / "mkdocs.yml").read_text()
    assert yaml.safe_load(config)["theme"]["font"] is False
    for text in [config, *TEXT.values()]:
        assert not re.search(r"(!\[[^]]*\]\(|<(img|script|link)[^>]*=[\"']?)https?://", text)
    assert "https://unpkg.com" not in config


def names(path):
    """Every class, function and method of a file, methods as Class.method."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef))


@pytest.mark.parametrize(("file", "found"), re.findall(r"`([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", CODE))
def test_the_code_table_names_what_exists(file, found):
    assert set(re.findall(r"`([\w.]+)`", found)) <= set(names(ROOT / file))


def test_every_question_has_an_answer_in_three_files_or_fewer():
    rows = re.findall(r"^\| ([A-Z].*\?) \| (.*) \|$", CODE, re.MULTILINE)
    assert len(rows) >= 15
    for question, answer in rows:
        assert 1 <= len(set(re.findall(r"`([\w/]+\.py)`", answer))) <= 3, question


@pytest.mark.parametrize("page", TEXT)
def test_files_named_in_the_text_exist(page):
    for path in re.findall(r"`((?:vae|conf|tests|datamodules|benchmarks)/[\w/.]*)`", TEXT[page]):
        example = any(f'title="{path}"' == info.partition(" ")[2] for info, _ in blocks(TEXT["docs/extending.md"]))
        assert example or (ROOT / path).exists(), path


def test_the_layers_of_the_code_page_are_those_of_the_import_contract():
    contract = re.search(r"layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    expected = [set(re.findall(r"[\w.]+", layer)) for layer in re.findall(r'"(.*)"', contract)]
    packages = CODE.partition("## ")[0]
    rows = [
        re.findall(r"`((?:vae|datamodules)[\w/]*)(?:/|\.py)`", row) for row in packages.splitlines() if row[:3] == "| `"
    ]
    layers = [{path.replace("/", ".") for path in row} for row in rows]
    assert layers == expected
