"""Single runs: the run folder is locked, and known not to contain another run, before Hydra writes to it."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from vae.errors import USER_ERRORS
from vae.runs.run_lock import check_is_new, lock_run

_lock = ExitStack()


class SingleRun(Callback):
    """Hydra callback: lock the folder of a single run, until `unlock` is called."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Exit as `main` of command.py if another process works in the folder, or a new run would overwrite another."""
        folder = Path(config.hydra.run.dir)
        try:
            _lock.enter_context(lock_run(folder, "resume" if config.resume else "hydra.run.dir"))
            if not config.resume:
                check_is_new(folder)
        except USER_ERRORS as error:  # Hydra would turn it into a warning
            raise SystemExit(2) from error


def unlock() -> None:
    """Release the lock of the run folder, if it is held."""
    _lock.close()
