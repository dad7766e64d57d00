"""Where a run's records go: always to <run_dir>/metrics.csv, and to Weights & Biases if asked for."""

import csv
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from vae.runs.run_folder import records

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
# Of a curve, which value is the best: W&B's summary of it, in the column NAME.max or NAME.min. Others have their last.
HIGH = ("elbo", "log_likelihood", "objective", "minus_cross_entropy", "minus_cross_entropy_less_kl")
BEST: dict[str, Callable[..., float]] = {
    f"{split}/{name}": best
    for split in ("train", "val")
    for name, best in {**dict.fromkeys(HIGH, max), "squared_error": min}.items()
}


class MetricsCSV(Logger):
    """<run_dir>/metrics.csv: one row a call, on disk when the call returns; a resumed run adds to the file.

    The first column is step; a metric gets its column when it first appears.
    """

    name: str | None = None
    version: str | None = None

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"

    @property
    def rows(self) -> list[dict[str, float]]:
        """The file's rows, each without its empty cells."""
        return records(self.path)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {"step": step} | {name: float(value) for name, value in metrics.items()}
        columns = self._columns()
        if new := [name for name in row if name not in columns]:
            self._write(columns + new, [*self._read(), row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, columns, lineterminator="\n").writerow(row)

    def log_hyperparams(self, *_args: Any, **_kwargs: Any) -> None:
        """The configuration has a file of its own."""

    @rank_zero_only
    def resume_from(self, step: int) -> None:
        """Drop the rows beyond the checkpoint's step, and those of the test: they will be logged again."""
        if columns := self._columns():
            tested = [name for name in columns if name.startswith("test/")]
            kept = [row for row in self._read() if int(row["step"]) <= step and not any(map(row.get, tested))]
            self._write(columns, kept)

    def _columns(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file).fieldnames or [])

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, columns: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
        half_written = self.path.with_suffix(".tmp")
        with half_written.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(half_written, self.path)


class _Wandb(WandbLogger):
    """wandb sends from a process of its own; should that die, the training goes on without it.

    When a training ends, so do its curves, of which the best values are found in all parts of it (wandb itself knows
    those of one process); with `log_model`, a training that was not cut off sends its best checkpoint.
    """

    alive = True
    run_dir: Path
    log_model: bool

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if self.alive:
            try:
                super().log_metrics(metrics, step)
            except ConnectionError as error:
                self.alive = False
                log.warning("W&B gets no more of this run: %s", error)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        rows = MetricsCSV(self.run_dir).rows
        curves = {name: [row[name] for row in rows if name in row] for name in BEST}
        summary = {name: {BEST[name].__name__: BEST[name](curve)} for name, curve in curves.items() if curve}
        try:
            if self.alive:
                self.experiment.summary.update(summary)
            if self.alive and self.log_model and status == "success":
                self.log_model = False  # the end of the test is one more
                best = self.run_dir / "checkpoints" / "best.ckpt"
                self.experiment.log_artifact(best, f"model-{self.version}", "model", ["best"])
        except Exception as error:  # noqa: BLE001 (the server or wandb's own process is gone; the run goes on)
            log.warning("W&B does not get all of this run (%r)", error)


def wandb_logger(
    run_dir: str | Path,
    save_dir: str | Path,
    project: str,
    name: str | None,
    group: str | None,
    job_type: str,
    tags: Iterable[str],
    notes: str | None,
    log_model: bool,
    timeout: float,
    finish_timeout: float,
) -> WandbLogger:
    """A started W&B run, kept in <save_dir>/wandb; the id in <run_dir>/wandb_id lets a resumed run go on.

    It is offline, and one line says why, without a key or if the server refuses it or does not answer within
    `timeout` seconds. WANDB_MODE is obeyed. With log_model the best checkpoint is an artifact of the run. The upload
    at the end may take `finish_timeout` seconds.
    """
    import wandb

    # wandb's telemetry would hold up the exit for 20 s when the server is mute
    os.environ.setdefault("OTEL_SDK_DISABLED", "true")
    settings = wandb.Settings(
        silent=True, init_timeout=timeout, finish_timeout=finish_timeout, finish_timeout_raises=True
    )
    id_file = Path(run_dir) / "wandb_id"
    run_id = id_file.read_text() if id_file.exists() else secrets.token_hex(4)

    def start(mode: str) -> _Wandb:
        logger = _Wandb(
            name=name,
            project=project,
            save_dir=save_dir,
            id=run_id,
            group=group,
            job_type=job_type,
            tags=list(tags),
            notes=notes,
            mode=mode,
        )
        _ = logger.experiment  # starts the run, on rank zero
        return logger

    mode = wandb.setup(settings).settings.mode
    why = f"WANDB_MODE={mode}"
    try:
        if mode not in {"offline", "dryrun", "disabled"} and not wandb.login(prompt=False, verify=False):
            raise wandb.Error("no API key: `wandb login` stores one")
        logger = start(mode)
    except (wandb.Error, TimeoutError) as error:
        why = " ".join(str(error).split())
        wandb.teardown()  # or wandb holds the run's id to be in use
        wandb.setup(settings)
        logger = start("offline")

    if not id_file.exists():
        id_file.write_text(logger.version or run_id)  # `wandb agent` gives it another
    logger.run_dir, logger.log_model = Path(run_dir), log_model
    _define(logger.experiment)
    _announce(logger.experiment, why, save_dir)
    return logger


@rank_zero_only
def _define(run: Any) -> None:
    """The axis is the step; images_seen and seconds, which every record has, may be chosen for it."""
    for name, best in BEST.items():
        run.define_metric(name, step_metric=STEP, summary=best.__name__)
    for axis in ("images_seen", "seconds"):
        run.define_metric(axis, hidden=True)  # as an axis it can be chosen; it is no curve of its own


@rank_zero_only
def _announce(run: Any, why: str, save_dir: str | Path) -> None:
    if run.offline:
        log.warning("W&B is offline (%s). To send this run later: python -m vae.sync %s", why, save_dir)
    elif not run.disabled:
        log.info("W&B: %s", run.url)


def finish(exit_code: int) -> None:
    """End the open W&B run, if there is one; W&B shows it as failed unless exit_code is 0. Never raises."""
    wandb: Any = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    path = wandb.run.sync_dir
    try:
        wandb.finish(exit_code)
    except Exception as error:  # noqa: BLE001 (the server or wandb's own process is gone; the run itself is done)
        log.warning(
            "W&B did not get all of this run (%r). To send it later: wandb sync --include-online %s", error, path
        )
        with suppress(Exception, SystemExit):
            wandb.teardown()
        wandb.run = None
