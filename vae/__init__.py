"""Train, load and compare variational autoencoders: see docs/python.md.

Nothing is imported before it is used: torch takes seconds.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae.api import Run, Runs, UserError, load, load_runs, sweep, train

__version__ = "0.2.0"
__all__ = ["Run", "Runs", "UserError", "load", "load_runs", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vae' has no attribute {name!r}")
    from vae import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
