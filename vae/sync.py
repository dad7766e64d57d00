"""Upload offline runs to W&B: python -m vae.sync [outputs] [timeout=600].

Uploads each run in outputs/wandb/ once, and the parts of a resumed run in order; wandb marks uploaded runs. Runs that
are damaged, still running or interrupted are listed and skipped. `timeout` is the limit per run, in seconds.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from vae.config.command_line import parse_arguments, run_command
from vae.config.section import PositiveFloat
from vae.errors import UserError
from vae.terminal import show
from vae.tracking.wandb_login import exit_now, wandb_api


class Arguments(BaseModel, strict=True, extra="forbid"):
    outputs: str = Field("outputs", description="the folder that contains wandb/")
    timeout: PositiveFloat = 600


def run_wandb(*arguments: str, run: Path, timeout: float | None = None) -> tuple[str, str]:
    """Run a `wandb` command on a run and return its stdout and stderr. Its exit code is always 0."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", *arguments, str(run)],
        env=os.environ | {"WANDB_DIR": str(run.parent.parent)},  # for wandb's own log
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.stdout, done.stderr


def is_uploaded(run: Path) -> bool:
    """Return whether wandb has marked the run as uploaded."""
    return any(run.glob("*.wandb.synced"))


def reason_to_skip(run: Path, resumed: bool) -> str | None:
    """Return why a run should not be uploaded, or None. A part that was resumed later cannot still be running."""
    records, errors = run_wandb("leet", "inspect", "--json", run=run)  # one record per line
    if "bad header" in errors or "corrupt" in errors:
        return "skipped: damaged"
    if not resumed and '"type":"exit"' not in records:
        return f"skipped: still running or interrupted; to upload it anyway: wandb sync {run}"
    return None


def upload(run: Path, timeout: float) -> str:
    """Upload one run and return its status."""
    try:
        _, errors = run_wandb("sync", run=run, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"failed: not uploaded within {timeout:g} s"
    if "incomplete record" in errors:  # the run was interrupted; all of its data is uploaded
        next(run.glob("*.wandb")).with_suffix(".wandb.synced").touch()
    if is_uploaded(run):
        return "uploaded"
    return f"failed: {next((line for line in errors.splitlines() if 'ERROR' in line), 'wandb gave no reason')}"


def sync(outputs: Path, timeout: float) -> int:
    """Upload the offline runs in a folder, print one line per run, and return the number of failures.

    Raises UserError if there is no wandb/ in the folder, or if the server cannot be used.
    """
    if not (outputs / "wandb").is_dir():
        raise UserError(f"outputs={outputs}: expected a folder with offline runs; it has no wandb/")
    runs = sorted((outputs / "wandb").glob("offline-run-*"))
    pending = [run for run in runs if not is_uploaded(run)]
    if pending:
        with wandb_api():  # fail early if the server cannot be used
            pass
    counts: Counter[str] = Counter()
    ids = [run.name.rpartition("-")[2] for run in pending]  # the parts of a resumed run have the same id
    blocked: set[str] = set()
    for i, (run, run_id) in enumerate(zip(pending, ids, strict=True), 1):
        if run_id in blocked:
            status = "skipped: an earlier part is not uploaded"
        else:
            status = reason_to_skip(run, resumed=run_id in ids[i:]) or upload(run, timeout)
        if status != "uploaded":
            blocked.add(run_id)
        counts[status.partition(":")[0]] += 1
        show(f"{i}/{len(pending)} {run.name} {status}")
    counts["uploaded before"] = len(runs) - len(pending)
    print(", ".join(f"{counts[status]} {status}" for status in ("uploaded", "uploaded before", "skipped", "failed")))
    return counts["failed"]


def main(argv: Sequence[str]) -> int:
    given = parse_arguments(Arguments, [arg if "=" in arg else f"outputs={arg}" for arg in argv])
    return int(sync(Path(given.outputs), given.timeout) > 0)


def cli() -> int:
    return run_command(main, __doc__, "stopped; run the same command again to continue")


if __name__ == "__main__":
    exit_now(cli())
