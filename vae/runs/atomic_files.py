"""Write files and folders atomically: a reader sees all of the new content or none of it."""

import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from vae.errors import UserError

DAY = 24 * 60 * 60  # seconds


def temporary_path(path: Path) -> Path:
    """Return a temporary name beside `path`, after removing what killed processes left there."""
    remove_leftovers(path.parent.glob(f"{escape(path.name)}.*.part"))
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove those of these temporary files and folders that were left by killed processes.

    A process of this machine is known to be killed. What others left, such as another machine, is removed after a day.
    """
    for path in paths:
        pid = re.search(rf"\.({re.escape(socket.gethostname())}-)?([0-9]+)\.part$", path.name)  # 0.1 named no machine
        with suppress(FileNotFoundError):
            if not is_running(int(pid[2])) if pid else time.time() - path.lstat().st_mtime > DAY:
                remove(path)


def is_running(pid: int) -> bool:
    """Return whether there is a process with this number on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Name `path` in an error of the disk that names no file, such as that of a full disk."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save raises RuntimeError
        if isinstance(cause, OSError) and not cause.filename:
            raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from None
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. If the block succeeds, rename the file there to `path`, else remove it."""
    part = temporary_path(path)
    try:
        with named_errors(path):
            yield part
            part.replace(path)
    finally:
        remove(part)


def atomic_write(content: str | bytes, path: Path) -> None:
    """Write a file under a temporary name, then rename it to `path`."""
    with atomic_path(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder; if the block succeeds, move its files into `folder`.

    Raises UserError, before the block runs, if `folder` cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a folder or a new path, but this is a file")
    part = temporary_path(folder)
    try:
        part.mkdir()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        with named_errors(folder):
            yield part
            folder.mkdir(exist_ok=True)
            for path in sorted(part.iterdir()):
                path.replace(folder / path.name)
    finally:
        remove(part)
