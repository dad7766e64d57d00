"""The jobs of a sweep: each is begun, gone on with or passed over, whatever becomes of the others; then, a table."""

import json
import logging
import math
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from vae.config.schema import validate
from vae.errors import USER_ERRORS, UserError, one_line
from vae.runs.atomic_files import atomic_write
from vae.runs.results_table import format_table
from vae.runs.run_folder import find_runs, read_metrics, read_run
from vae.training.ddp import run

log = logging.getLogger(__name__)


def job(cfg: DictConfig, folder: Path) -> float:
    """Run one job in its folder, unless that was done before; the best val/elbo, which a search maximises.

    A job that was cut off goes on from its last checkpoint. Why one failed is logged, and kept in failed.txt; for a
    search it is worth less than any other.
    """
    failed = folder / "failed.txt"
    try:
        with FileLock(folder / ".lock", timeout=0):
            if finished(folder):
                log.info(f"{os.path.relpath(folder)} is finished")
            else:
                for old in (failed, folder / "summary.json"):
                    old.unlink(missing_ok=True)
                resume_job(cfg, folder)
            return best(folder)
    except Timeout:
        log.warning(f"{os.path.relpath(folder)} is under way in another process")
    except (*USER_ERRORS, OSError) as error:
        failed.write_text(one_line(error) + "\n")
        log.error(one_line(error))
    except Exception as error:
        failed.write_text(f"{type(error).__name__}: {one_line(error)}\n")
        log.exception("this run failed")
    except SystemExit:
        log.info(hint(folder.parent))
        raise
    return -math.inf


def finished(folder: Path) -> bool:
    """Whether there is a summary that can be read."""
    try:
        return read_run(folder).status == "finished"
    except UserError:
        return False


def resume_job(cfg: DictConfig, folder: Path) -> None:
    """Run what is left of a job: all of it, where it was cut off before its first checkpoint."""
    if (folder / "checkpoints" / "last.ckpt").exists():
        with open_dict(cfg):
            cfg.resume = str(folder)
    else:
        for left in ("checkpoints", "figures"):
            shutil.rmtree(folder / left, ignore_errors=True)
        for left in ("metrics.csv", "wandb_id"):
            (folder / left).unlink(missing_ok=True)
    validate(cfg)
    run(cfg, folder)  # only now is torch imported


def best(folder: Path) -> float:
    """The best val/elbo of a run; -inf of one that records none."""
    elbos = (record["val/elbo"] for record in read_metrics(folder / "metrics.csv") if "val/elbo" in record)
    return max(elbos, default=-math.inf)


def hint(folder: Path) -> str:
    """How to go on with the sweep in this folder."""
    return f"to go on with this sweep if it is cut off: python train.py sweep={shlex.quote(os.path.relpath(folder))}"


def requeue_trials(sweeper: DictConfig) -> None:
    """Have a search begin with the trials that it had begun when it was cut off."""
    import optuna

    if sweeper.study_name in (study.study_name for study in optuna.get_all_study_summaries(sweeper.storage)):
        study = optuna.load_study(sweeper.study_name, sweeper.storage)
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)


class Sweep(Callback):
    """What Hydra calls before the first job of a sweep, and after the last."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Keep the line that was typed, for `sweep=` to go on with, and say so."""
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(json.dumps(OmegaConf.to_container(config.hydra.overrides), indent=2) + "\n", folder / "sweep.json")
        if config.hydra.sweeper.get("storage"):
            requeue_trials(config.hydra.sweeper)
        print(hint(folder))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Show what came of them; exit code 1 unless all are finished."""
        folder = Path(config.hydra.sweep.dir)
        try:
            runs = find_runs([folder])
        except UserError as error:  # Hydra would make a warning of it
            log.error(one_line(error))
            sys.exit(1)
        log.info(f"\n{format_table(runs)}\n\n{os.path.relpath(folder)}")
        if any(run.status != "finished" for run in runs):
            sys.exit(1)
