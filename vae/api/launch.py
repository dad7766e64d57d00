"""Train and sweep from Python, as the command line does. Nothing here imports torch."""

import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from vae.api.run import Run, load
from vae.api.runs import Runs, load_runs
from vae.config.command_line import initialize_conf
from vae.errors import USER_ERRORS, UserError, one_line
from vae.training.command import explain_unknown_keys, hydra_arguments, main, user_error
from vae.training.signals import forget_signals, signal_exit_code
from vae.training.single_run import unlock

one_thread = threading.RLock()  # Hydra's state belongs to the process: threads train one after the other
PLAIN = re.compile(r"(?!(null|true|false|nan|inf)$)[A-Za-z_][\w./-]*", re.IGNORECASE)  # needs no quotes


def to_override(key: str, value: Any) -> str:
    """Return a keyword argument as an override of the command line. A class replaces the class of a group."""
    dotted = key.replace("__", ".")
    if isinstance(value, type):
        return f"{dotted}._target_={value.__module__}.{value.__qualname__}"
    if key in ("resume", "sweep"):  # taken literally, before Hydra reads the arguments
        return f"{key}={value}"
    return f"{dotted}={format_value(value)}"


def format_value(value: Any) -> str:
    """Format a value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{format_value(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if not isinstance(value, str | Path) or PLAIN.fullmatch(text):
        return text
    return "'" + text.replace("'", "\\'") + "'"


@contextmanager
def kept_logging() -> Iterator[None]:
    """Restore the handlers and the level of the root logger, which Hydra changes inside the block."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def started_hydra() -> Iterator[Any]:
    """Yield Hydra, set up as for train.py.

    An error that the user can fix becomes a UserError, and a stop by a signal becomes a KeyboardInterrupt.
    """
    forget_signals()
    try:
        with initialize_conf(), kept_logging():
            yield GlobalHydra.instance().hydra
    except (SystemExit, *USER_ERRORS) as error:
        if fixable := user_error(error):
            raise UserError(one_line(fixable)) from None
        if signal_exit_code():
            raise KeyboardInterrupt from None
        raise
    finally:
        unlock()


def build_arguments(hydra: Any, overrides: Sequence[str], images: Any, labels: Any, keys: dict[str, Any]) -> list[str]:
    """Return the arguments for Hydra. Images are written to a file in data_dir. Raises UserError for wrong ones."""
    typed = [*overrides, *(to_override(key, value) for key, value in keys.items())]
    if images is not None:
        from datamodules.array import save_images  # imports torch

        if isinstance(images, str | Path):
            raise UserError(f"images={images}: expected an array; for a file: dataset=array dataset.path={images}")
        folder = hydra.compose_config("config", [o for o in typed if o.startswith("data_dir=")], RunMode.RUN).data_dir
        try:
            typed = [*save_images(images, labels, folder), *typed]
        except (TypeError, ValueError) as error:
            raise UserError(f"images: expected an array, a tensor or a torch Dataset: {one_line(error)}") from None
    elif labels is not None:
        raise UserError("labels: expected only with images")
    return hydra_arguments(typed)


def train(*overrides: str, images: Any = None, labels: Any = None, **keys: Any) -> Run:
    """Train a run and return it.

    `overrides` are those of the command line, "latent_dim=10". `keys` are the same as keyword arguments, with two
    underscores for a dot: trainer__max_epochs=5. `images` is an array, a tensor, or a torch Dataset of images or of
    pairs (image, label): it is written to a file, and dataset=array is used. Raises UserError where the command would
    print an error.
    """
    with one_thread, started_hydra() as hydra:
        arguments = build_arguments(hydra, overrides, images, labels, keys)
        if "-m" in arguments:
            raise UserError(f"{' '.join(arguments[1:])}: expected one run; vae.sweep trains several")
        with explain_unknown_keys(arguments):
            job = hydra.run("config", main, arguments)
    return load(os.path.relpath(job.hydra_cfg.hydra.runtime.output_dir), trust=True)


def sweep(*overrides: str, images: Any = None, labels: Any = None, **keys: Any) -> Runs:
    """Train a run for each combination of values, such as "latent_dim=2,5,10", and return them, best first.

    Arguments are those of `train`. A run that fails does not stop the others: its `failure` is the reason.
    """
    with one_thread, started_hydra() as hydra:
        arguments = build_arguments(hydra, ["-m", *overrides], images, labels, keys)
        arguments = [*(argument for argument in arguments if argument != "-m"), "hydra.mode=MULTIRUN"]
        cfg = hydra.compose_config("config", arguments, RunMode.MULTIRUN)
        folder = cfg.hydra.sweep.dir
        try:
            hydra.multirun("config", main, [*arguments, f"hydra.sweep.dir={format_value(folder)}"])
        except SystemExit as stop:
            if stop.code != 1:  # some runs failed
                raise
    return load_runs(folder, trust=True)
