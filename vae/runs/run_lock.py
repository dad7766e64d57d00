"""One process at a time works in a run folder. Nothing here imports torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vae.errors import UserError
from vae.runs.atomic_files import remove_leftovers

LOCK = ".lock"


class RunLockedError(UserError):
    """Another process works in the run folder."""


@contextmanager
def lock_run(folder: Path, key: str) -> Iterator[None]:
    """Hold the lock of a run folder, which is created if it is missing. What killed processes left in it is removed.

    Raises RunLockedError, which names `key`, if another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunLockedError(f"{key}={folder}: another process is working in this run folder") from None
    try:
        remove_leftovers(folder.rglob("*.part"))
        yield
    finally:
        lock.release()


def check_is_new(folder: Path) -> None:
    """Raise UserError if there is a run in the folder."""
    if any((folder / name).exists() for name in ("data.json", "metrics.csv")):
        raise UserError(f"hydra.run.dir={folder}: expected a folder without a run; resume={folder} continues this run")
