"""Show text from files and file names, which may come from anybody, on a terminal."""

import io
import logging
import sys
from typing import TextIO
from unicodedata import category


def is_visible(letter: str) -> bool:
    """Return whether a character is a letter, a sign or any kind of space, and no control character."""
    return letter.isprintable() or category(letter) == "Zs"


def printable(text: str) -> str:
    """Return a text with escapes such as \\x1b in place of control characters, which could command the terminal.

    Line breaks and tabs stay.
    """
    return "".join(
        letter if letter in "\n\t" or is_visible(letter) else letter.encode("unicode_escape").decode()
        for letter in text
    )


def show(text: str, file: TextIO | None = None) -> None:
    """Print a text with escapes in place of control characters."""
    print(printable(text), file=file, flush=True)


def escape_unencodable() -> None:
    """Make stdout show characters that its encoding lacks as escapes, as stderr does; otherwise they are errors."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class PrintableFormatter(logging.Formatter):
    """Format log records with escapes in place of control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
