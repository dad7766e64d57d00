"""The command line of train.py. A VAE is trained in the job that Hydra starts. Nothing here imports torch."""

import gc
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from vae.config.config_dirs import import_from_current_folder, to_search_path
from vae.config.override_checks import check_keys, check_overrides
from vae.config.overrides import read_arguments
from vae.config.resumed_run import change_config
from vae.config.schema import CONF, validate
from vae.config.stored_arguments import resume_arguments, sweep_arguments
from vae.config.stored_config import read_config
from vae.errors import USER_ERRORS, UserError, one_line
from vae.process import prepare_process
from vae.runs.checkpoint_files import clear_training, has_checkpoint
from vae.runs.run_lock import LOCK
from vae.training.ddp import launch
from vae.training.signals import exit_on_signal, signal_exit_code
from vae.training.single_run import unlock

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> float | None:
    """Train a run in the folder that Hydra made for it; for a job of a sweep, return its best val/elbo.

    An error that the user can fix ends a single run with SystemExit, whose cause it is: for other exceptions, Hydra
    prints a message of its own. The folder of a run that did not start is removed.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        from vae.training.sweep import run_job

        return run_job(cfg, folder)
    resume, changes = cfg.resume, ""
    try:
        if resume:
            given, cfg = cfg, read_config(folder)
            changes = "\n".join(change_config(cfg, given, HydraConfig.get().overrides.task))
            if has_checkpoint(folder):
                cfg.resume = resume
            else:
                log.warning("there is no checkpoint yet; training starts from the beginning")
                clear_training(folder)
        validate(cfg)
        if changes:
            log.info(changes)
        launch(cfg, folder)  # imports torch
    except USER_ERRORS as error:
        if not resume and not (folder / "metrics.csv").exists():
            discard(folder)
        raise SystemExit(2) from error
    return None


def discard(folder: Path) -> None:
    """Remove the files Hydra wrote for a run that did not start, and the folders that are then empty."""
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    for name in ("train.log", "data.json", LOCK):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        for empty in (folder, *folder.parents[:2]):
            empty.rmdir()


def check_flags(arguments: list[str]) -> None:
    """Raise UserError for flags that exclude each other; Hydra would end with a traceback."""
    given, _ = get_args_parser().parse_known_args(arguments)
    if given.help or given.hydra_help:
        return
    if given.resolve and not given.cfg:
        raise UserError("--resolve: expected only with --cfg")
    exclusive = {"--run": given.run, "-m": given.multirun, "--cfg": given.cfg, "--info": given.info}
    exclusive["--shell-completion"] = given.shell_completion
    if len(chosen := [flag for flag, value in exclusive.items() if value]) > 1:
        raise UserError(f"{chosen[0]}: expected without {', '.join(chosen[1:])}")


def starts_sweep(arguments: list[str]) -> bool:
    """Return whether these arguments start a sweep."""
    multirun = get_args_parser().parse_known_args(arguments)[0].multirun
    return multirun or any(arg.lstrip("+").startswith("hydra.mode=MULTI") for arg in arguments)


def hydra_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments for Hydra, with sweep= and resume= replaced. Raises UserError for a wrong key or choice."""
    typed = sweep_arguments(read_arguments(to_search_path(arguments)))
    replaced = resume_arguments(typed)
    check_flags(replaced)
    if replaced == typed and not {"-sc", "--shell-completion"} & set(typed):
        overrides = [arg for arg in typed if "=" in arg and not arg.startswith("-")]
        check_overrides(overrides)
        if starts_sweep(typed):
            check_keys(overrides, multirun=True)
        elif any(arg.startswith("--info") for arg in typed):  # Hydra does not compose the config for all kinds of it
            check_keys(overrides)
    return replaced


@contextmanager
def explain_unknown_keys(arguments: list[str]) -> Iterator[None]:
    """If Hydra refuses these arguments inside the block, raise UserError if one of them names an unknown key."""
    try:
        yield
    except (HydraException, UnicodeDecodeError, ValueError):  # ValueError: a name where a list has a position
        check_keys([arg for arg in arguments if "=" in arg and not arg.startswith("-")])
        raise


def user_error(error: BaseException) -> Exception | None:
    """Return the error that the user can fix, if it is this one or the cause of this SystemExit."""
    cause = error.__cause__ if isinstance(error, SystemExit) else error
    return cause if isinstance(cause, USER_ERRORS) else None


def cli() -> int:
    """Run the command line; return the exit code."""
    prepare_process()
    exit_on_signal()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise exceptions instead of printing them
    gc.disable()  # garbage collection takes a fifth of the import time; vae.training.experiment enables it again
    try:
        import_from_current_folder()
        sys.argv[1:] = hydra_arguments(sys.argv[1:])
        with explain_unknown_keys(sys.argv[1:]):
            hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(main)()
    except (SystemExit, *USER_ERRORS) as error:
        fixable = user_error(error)
        if fixable is None:
            raise
        print(one_line(fixable), file=sys.stderr)
        return 2
    finally:
        unlock()
        gc.enable()
    return signal_exit_code()
