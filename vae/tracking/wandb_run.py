"""The W&B run of a training: start it, or resume it; log to it; finish it."""

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from vae.config.command_line import command
from vae.tracking.metrics_csv import MetricsCSV

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
HIGHER_IS_BETTER = ("elbo", "log_likelihood", "objective", "minus_cross_entropy", "minus_cross_entropy_less_kl")
# The best value of a curve, max or min. W&B shows it as NAME.max or NAME.min; for other curves it shows the last value.
BEST: dict[str, Callable[..., float]] = {
    f"{split}/{name}": best
    for split in ("train", "val")
    for name, best in {**dict.fromkeys(HIGHER_IS_BETTER, max), "squared_error": min}.items()
}


class _FaultTolerantWandbLogger(WandbLogger):
    """A W&B logger that does not stop the training if wandb fails.

    At the end of a training it sends the best value of each curve. It computes them from metrics.csv, because wandb
    does not know the values from before a run was resumed. With `log_model` it also uploads the best checkpoint,
    unless the training was interrupted.
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
                log.warning("W&B receives no more metrics of this run: %s", error)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        rows = MetricsCSV(self.run_dir).rows
        curves = {name: [row[name] for row in rows if name in row] for name in BEST}
        summary = {name: {BEST[name].__name__: BEST[name](curve)} for name, curve in curves.items() if curve}
        try:
            if self.alive:
                self.experiment.summary.update(summary)
            if self.alive and self.log_model and status == "success":
                self.log_model = False  # upload once: finalize is called again after the test
                best = self.run_dir / "checkpoints" / "best.ckpt"
                self.experiment.log_artifact(best, f"model-{self.version}", "model", ["best"])
        except Exception as error:  # noqa: BLE001 (the server or wandb's process may be gone; the run continues)
            log.warning("W&B did not receive all data of this run (%r)", error)


def wandb_logger(
    run_dir: str | Path,
    save_dir: str | Path | None,
    project: str | None,
    name: str | None,
    group: str | None,
    job_type: str,
    tags: Iterable[str],
    notes: str | None,
    log_model: bool,
    timeout: float,
    finish_timeout: float,
) -> WandbLogger:
    """Start a W&B run with its files in <save_dir>/wandb, or resume the run whose id is in <run_dir>/wandb_id.

    The run is offline if there is no API key, if the server rejects it, or if the server does not answer within
    `timeout` seconds; a log line gives the reason. WANDB_MODE is respected. WANDB_PROJECT, WANDB_DIR and WANDB_TAGS are
    used where an argument is empty. WANDB_NAME replaces `name` or, in a sweep, precedes it. With `log_model` the best
    checkpoint is uploaded as an artifact. The upload at the end may take `finish_timeout` seconds.
    """
    import wandb

    project = project or os.environ.get("WANDB_PROJECT") or "vae"
    save_dir = save_dir or os.environ.get("WANDB_DIR") or "outputs"
    tags = list(tags) or [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
    if title := os.environ.get("WANDB_NAME"):
        name = f"{title} {name}" if job_type == "sweep" else title

    # wandb's telemetry delays the exit by 20 s if the server does not answer
    os.environ.setdefault("OTEL_SDK_DISABLED", "true")
    settings = wandb.Settings(
        silent=True, init_timeout=timeout, finish_timeout=finish_timeout, finish_timeout_raises=True
    )
    id_file = Path(run_dir) / "wandb_id"
    run_id = id_file.read_text() if id_file.exists() else secrets.token_hex(4)

    def start(mode: str) -> _FaultTolerantWandbLogger:
        logger = _FaultTolerantWandbLogger(
            name=name,
            project=project,
            save_dir=save_dir,
            id=run_id,
            group=group,
            job_type=job_type,
            tags=tags,
            notes=notes,
            mode=mode,
        )
        _ = logger.experiment  # this starts the run, on rank zero
        return logger

    mode = wandb.setup(settings).settings.mode
    reason = f"WANDB_MODE={mode}"
    try:
        if mode not in {"offline", "dryrun", "disabled"} and not wandb.login(prompt=False, verify=False):
            raise wandb.Error("no API key; `wandb login` stores one")
        logger = start(mode)
    except (wandb.Error, TimeoutError) as error:
        reason = " ".join(str(error).split())
        wandb.teardown()  # otherwise wandb considers the run id in use
        wandb.setup(settings)
        logger = start("offline")

    if not id_file.exists():
        id_file.write_text(logger.version or run_id)  # `wandb agent` sets another id
    logger.run_dir, logger.log_model = Path(run_dir), log_model
    _define_metrics(logger.experiment)
    _log_status(logger.experiment, reason)
    return logger


@rank_zero_only
def _define_metrics(run: Any) -> None:
    """Set the x-axis of the curves to the step, and offer images_seen and seconds as other x-axes."""
    for name, best in BEST.items():
        run.define_metric(name, step_metric=STEP, summary=best.__name__)
    for axis in ("images_seen", "seconds"):
        run.define_metric(axis, hidden=True)  # available as an x-axis, but not shown as a curve


@rank_zero_only
def _log_status(run: Any, reason: str) -> None:
    if run.offline:
        # wandb writes to the system's temporary folder if save_dir cannot be written
        save_dir = os.path.relpath(Path(run.settings.wandb_dir).parent)
        log.warning("W&B is offline (%s). To upload this run later: %s %s", reason, command("sync"), save_dir)
    elif not run.disabled:
        log.info("W&B: %s", run.url)


def finish_wandb(exit_code: int) -> None:
    """Finish the open W&B run, if any; W&B shows it as failed unless `exit_code` is 0. Raises no exception."""
    wandb: Any = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    path = wandb.run.sync_dir
    try:
        wandb.finish(exit_code)
    except Exception as error:  # noqa: BLE001 (the server or wandb's process may be gone; the run itself is complete)
        log.warning(
            "W&B did not receive all data of this run (%r). To upload it later: wandb sync --include-online %s",
            error,
            path,
        )
        with suppress(Exception, SystemExit):
            wandb.teardown()
        wandb.run = None
