"""Errors that the user can fix, and how they are shown."""

from collections.abc import Iterable
from difflib import get_close_matches

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException


class UserError(Exception):
    """An error the user can fix. Its message is shown without a traceback, and the exit code is 2."""


USER_ERRORS = (UserError, HydraException, OmegaConfBaseException, OSError)


def one_line(error: Exception) -> str:
    """Return the message of an error as one line."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) if isinstance(error, UserError) else " ".join(str(error).split())


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean VALUE?" with the closest allowed value, or an empty string if none is close."""
    close = get_close_matches(given, list(allowed), n=1)
    return f"; did you mean {close[0]}?" if close else ""
