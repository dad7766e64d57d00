"""Log in to W&B for the commands that need its server."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from vae.errors import UserError


@contextmanager
def wandb_api() -> Iterator[Any]:
    """Yield a logged-in wandb.Api.

    Raises UserError if there is no API key, or if the server does not answer, rejects the key, or rejects a request
    in the block. The timeout is WANDB_HTTP_TIMEOUT, or 10 seconds.
    """
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", "10")
    os.environ |= {"WANDB_MODE": "online", "OTEL_SDK_DISABLED": "true"}  # wandb's telemetry may delay the exit
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    try:
        if not wandb.login(prompt=False, verify=False):
            raise UserError("W&B: no API key; run `wandb login`, or set WANDB_API_KEY")
        yield wandb.Api()
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 (wandb's errors have no common base class)
        raise UserError(f"W&B: {' '.join(str(error).split())}") from None


def exit_now(code: int) -> NoReturn:
    """End this process without exit handlers: wandb's may wait forever if the server did not answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
