"""Send W&B the runs that were kept offline: python -m vae.sync [outputs] [timeout=600].

Each once, the parts of a resumed run one after the other: what has been sent is marked, by wandb, and not sent again. A
run without an end that was not resumed, or damaged, is named and left. `timeout` is for each run, in seconds.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from vae.config.command_line import arguments, command
from vae.config.schema import Positive
from vae.errors import UserError
from vae.tracking.wandb_login import leave, wandb_api


class Arguments(BaseModel, strict=True, extra="forbid"):
    outputs: str = Field("outputs", description="the folder that holds wandb/")
    timeout: Positive = 600


def wandb(*typed: str, run: Path, timeout: float | None = None) -> tuple[str, str]:
    """What its command printed and what it complained of; its exit code is 0 whatever happens."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", *typed, str(run)],
        env=os.environ | {"WANDB_DIR": str(run.parent.parent)},  # for its own log
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.stdout, done.stderr


def sent_before(run: Path) -> bool:
    return any(run.glob("*.wandb.synced"))


def incomplete(run: Path, resumed: bool) -> str | None:
    """Why it should not be sent, or nothing; what was resumed is not under way."""
    records, complaint = wandb("leet", "inspect", "--json", run=run)  # a line each
    if "bad header" in complaint or "corrupt" in complaint:
        return "left: damaged"
    if not resumed and '"type":"exit"' not in records:
        return f"left: under way, or cut off; to send what there is: wandb sync {run}"
    return None


def send(run: Path, timeout: float) -> str:
    """What came of it."""
    try:
        _, said = wandb("sync", run=run, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"failed: not sent within {timeout:g} s"
    if "incomplete record" in said:  # it was cut off, and this is all there is
        next(run.glob("*.wandb")).with_suffix(".wandb.synced").touch()
    if sent_before(run):
        return "sent"
    return f"failed: {next((line for line in said.splitlines() if 'ERROR' in line), 'wandb did not say why')}"


def sync(outputs: Path, timeout: float) -> int:
    """Send the runs of a folder, a line each; how many could not be sent. UserError where nothing can be."""
    if not (outputs / "wandb").is_dir():
        raise UserError(f"outputs={outputs}: expected a folder with runs kept offline; there is no wandb/ in it")
    runs = sorted((outputs / "wandb").glob("offline-run-*"))
    fresh = [run for run in runs if not sent_before(run)]
    if fresh:
        with wandb_api():
            pass
    outcomes: Counter[str] = Counter()
    ids = [run.name.rpartition("-")[2] for run in fresh]  # the same of a run and of what goes on from it
    stuck: set[str] = set()
    for i, (run, name) in enumerate(zip(fresh, ids, strict=True), 1):
        reason = "left: it goes on from one that was not sent" if name in stuck else incomplete(run, name in ids[i:])
        outcome = reason or send(run, timeout)
        if outcome != "sent":
            stuck.add(name)
        outcomes[outcome.partition(":")[0]] += 1
        print(f"{i}/{len(fresh)} {run.name} {outcome}", flush=True)
    before = len(runs) - len(fresh)
    print(f"{outcomes['sent']} sent, {before} sent before, {outcomes['left']} left, {outcomes['failed']} failed")
    return outcomes["failed"]


def main(typed: Sequence[str]) -> int:
    given = arguments(Arguments, [text if "=" in text else f"outputs={text}" for text in typed])
    return int(sync(Path(given.outputs), given.timeout) > 0)


def cli() -> int:
    return command(main, __doc__, "stopped; the same command goes on")


if __name__ == "__main__":
    leave(cli())
