"""Errors that the user can fix, and how they are shown."""

import os
from collections.abc import Iterable
from difflib import get_close_matches

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from vae.terminal import printable


class UserError(Exception):
    """An error the user can fix. Its message is shown without a traceback, and the exit code is 2."""


USER_ERRORS = (UserError, HydraException, OmegaConfBaseException, YAMLError, OSError)


def one_line(error: Exception) -> str:
    """Return the message of an error as one line, with escapes in place of control characters."""
    if isinstance(error, InstantiationException):
        if isinstance(error.__cause__, UserError):
            return one_line(error.__cause__)
        text, _, key = str(error).partition("\nfull_key: ")
        if isinstance(error.__cause__, ImportError):  # says why the class was not found
            text = str(error.__cause__)
        error = HydraException(f"{key}: {text}" if key else text)
    message = str(error) if isinstance(error, UserError) else " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename:
        message = f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        message = f"{error.problem_mark.name}: line {error.problem_mark.line + 1}: {error.problem}"
    return printable(message)


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean VALUE?" with the closest allowed value, or "" if none is close, or for a whole number."""
    close = [] if given.isdecimal() else get_close_matches(given, list(allowed), n=1)
    return f"; did you mean {close[0]}?" if close else ""
