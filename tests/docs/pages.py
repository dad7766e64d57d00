"""The README and the pages of the documentation, and what is in them."""

import re
from pathlib import Path

from vae.config.schema import CONF

ROOT = CONF.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """The (info string, content) of each fenced block."""
    return [(info.strip(), content) for _, info, content in FENCE.findall(text)]


def spans(text: str) -> list[str]:
    """The inline code outside of fenced blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def command_lines() -> list[tuple[str, str]]:
    """(page, command line) for every command in a block without a language, or in inline code."""
    found: dict[tuple[str, str], None] = {}
    for page in PAGES:
        text = page.read_text()
        lines = [line for info, block in blocks(text) if not info for line in block.splitlines()]
        inline = [span for span in spans(text) if re.match(r"(python|make|wandb|pip|uv|vae) [^ ]", span)]
        for line in [*lines, *inline]:
            if line.strip():
                found[name(page), line.strip()] = None
    return list(found)
