"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A new empty folder; what is in it at the end moves into `folder`, unless something went wrong."""
    with TemporaryDirectory(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent) as part:
        yield Path(part)
        folder.mkdir(exist_ok=True)
        for path in sorted(Path(part).iterdir()):
            path.replace(folder / path.name)
