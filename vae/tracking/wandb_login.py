"""The W&B account of whoever types, for the commands that cannot do without the server."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from vae.errors import UserError


@contextmanager
def wandb_api() -> Iterator[Any]:
    """wandb's Api; UserError without a key, or where the server is not there, or refuses it or what is asked of it.

    It may take 10 seconds to answer, or WANDB_HTTP_TIMEOUT.
    """
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", "10")
    os.environ |= {"WANDB_MODE": "online", "OTEL_SDK_DISABLED": "true"}  # wandb's telemetry may hold up the exit
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    try:
        if not wandb.login(prompt=False, verify=False):
            raise UserError("W&B: no API key; `wandb login` stores one, or WANDB_API_KEY= names it")
        yield wandb.Api()
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 (its errors have no class in common)
        raise UserError(f"W&B: {' '.join(str(error).split())}") from None


def leave(code: int) -> NoReturn:
    """End this process now: wandb would wait for its own at the exit, at times for ever, where no server answered."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
