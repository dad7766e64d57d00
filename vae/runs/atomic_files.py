"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from vae.errors import UserError


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A new empty folder; what is in it at the end moves into `folder`, unless something went wrong.

    UserError, before anything is made, where that cannot be.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a folder, or nothing yet; a file is in the way")
    try:
        new = TemporaryDirectory(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    with new as part:
        yield Path(part)
        folder.mkdir(exist_ok=True)
        for path in sorted(Path(part).iterdir()):
            path.replace(folder / path.name)
