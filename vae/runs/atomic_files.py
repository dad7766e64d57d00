"""Write files and folders atomically: a reader sees all of the new content or none of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from vae.errors import UserError


def atomic_write(content: str | bytes, path: Path) -> None:
    """Write a file under a temporary name, then rename it to `path`."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


@contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder; if the block succeeds, move its files into `folder`.

    Raises UserError, before the block runs, if `folder` cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a folder or a new path, but this is a file")
    try:
        new = TemporaryDirectory(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    with new as part:
        yield Path(part)
        folder.mkdir(exist_ok=True)
        for path in sorted(Path(part).iterdir()):
            path.replace(folder / path.name)
