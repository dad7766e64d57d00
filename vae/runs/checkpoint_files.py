"""Which checkpoint of a run to resume from. Nothing here imports torch."""

import shutil
import zlib
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from vae.errors import UserError

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "last-previous.ckpt"


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint, which is a zip file, exists and matches its checksums.

    Raises PermissionError if it may not be read.
    """
    try:
        with ZipFile(path) as file:
            return file.testzip() is None
    except PermissionError:
        raise
    except (OSError, BadZipFile, zlib.error, ValueError, NotImplementedError, EOFError):
        return False


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest intact checkpoint of the training in a run folder; None if there is none."""
    found = (folder / "checkpoints" / name for name in (LAST, PREVIOUS))
    return next((path for path in found if is_intact(path)), None)


def has_checkpoint(folder: Path) -> bool:
    """Return whether the training in a run folder has written a checkpoint, intact or not."""
    return any((folder / "checkpoints" / name).exists() for name in (LAST, PREVIOUS))


def clear_training(folder: Path) -> None:
    """Remove what a training that cannot be continued has written, so that it can start again in the same folder."""
    for name in ("checkpoints", "figures"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("data.json", "metrics.csv", "summary.json", "wandb_id"):
        (folder / name).unlink(missing_ok=True)


def checkpoint_to_resume(folder: Path) -> Path:
    """Return `latest_checkpoint`. Raises UserError if there is none."""
    path = latest_checkpoint(folder)
    if path:
        return path
    raise UserError(f"resume={folder}: checkpoints/{LAST} is damaged, and there is no intact {PREVIOUS}")
