"""MkDocs hook: the line `{{ manual of vae.generate }}` becomes what `python -m vae.generate --help` prints."""

import ast
import re
from pathlib import Path
from textwrap import indent
from typing import Any

ROOT = Path(__file__).parents[1]


def manual(line: re.Match[str]) -> str:
    margin, module = line.groups()
    text = ast.get_docstring(ast.parse((ROOT / module.replace(".", "/") / "__main__.py").read_text()))
    return indent(f"```text\n{text}\n```", margin)


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"^( *){{ manual of ([\w.]+) }}$", manual, markdown, flags=re.MULTILINE)
