"""Train, load and compare variational autoencoders: see docs/python.md.

Nothing is imported before it is used: torch takes seconds.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae.api import Run, Runs, UserError, load, load_runs, sweep, train

# Threads that wait for each other keep their cores busy: by default for so long that a training beside another busy
# process loses nearly all its speed. OpenMP of GCC reads this when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.2.0"
__all__ = ["Run", "Runs", "UserError", "load", "load_runs", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vae' has no attribute {name!r}")
    from vae import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
