"""Sweeps: run, resume or skip each job, independently of the others, and print a table of all runs at the end."""

import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict

from vae.config.command_line import choices, command, initialize_conf
from vae.config.config_dirs import SEARCH_PATH, config_dirs
from vae.config.overrides import override_values, parse_override
from vae.config.schema import validate
from vae.config.stored_config import read_sweep
from vae.errors import USER_ERRORS, UserError, one_line
from vae.runs.atomic_files import atomic_write
from vae.runs.checkpoint_files import clear_training, latest_checkpoint
from vae.runs.results_table import build_rows, format_table
from vae.runs.run_folder import find_runs, read_metrics, read_run
from vae.runs.run_lock import RunLockedError, lock_run
from vae.terminal import show
from vae.training.ddp import launch
from vae.training.parallel_job import exit_if_orphaned, is_parallel_job, prepare_parallel_job

log = logging.getLogger(__name__)


def run_job(cfg: DictConfig, folder: Path) -> float:
    """Run one job in its folder, unless it is finished; return its `best_validation`, which a search maximises.

    An interrupted job continues from its last checkpoint. If a job fails, its error is logged and written to
    failed.txt, and the result is -inf.
    """
    failed = folder / "failed.txt"
    if is_parallel_job():
        prepare_parallel_job(" ".join(job_overrides(HydraConfig.get().overrides.task, folder.parent)) or folder.name)
    try:
        with lock_run(folder, "hydra.sweep.dir"):
            if finished(folder):
                log.info(f"{os.path.relpath(folder)} is already finished")
            else:
                for outdated in (failed, folder / "summary.json"):
                    outdated.unlink(missing_ok=True)
                resume_job(cfg, folder)
            return best_validation(folder)
    except RunLockedError:
        log.warning(f"{os.path.relpath(folder)} is running in another process")
    except USER_ERRORS as error:
        failed.write_text(one_line(error) + "\n", "utf-8")
        log.error(one_line(error))
    except Exception as error:
        failed.write_text(f"{type(error).__name__}: {one_line(error)}\n", "utf-8")
        log.exception("run failed")
    except SystemExit:
        log.info(resume_hint(folder.parent))
        exit_if_orphaned()
        raise
    return -math.inf


def job_overrides(overrides: Sequence[str], sweep: Path) -> list[str]:
    """Return the overrides of a job that are not the same for all jobs of its sweep."""
    common = read_sweep(sweep).task if (sweep / "sweep.json").exists() else overrides
    return [override for override in overrides if override not in common]


def finished(folder: Path) -> bool:
    """Return whether the folder has a summary that can be read."""
    try:
        return read_run(folder).status == "finished"
    except UserError:
        return False


def resume_job(cfg: DictConfig, folder: Path) -> None:
    """Continue a job from its last checkpoint, or start it again if it has no intact one."""
    if latest_checkpoint(folder):
        with open_dict(cfg):
            cfg.resume = str(folder)
    else:
        clear_training(folder)
    validate(cfg)
    launch(cfg, folder)  # imports torch


def best_validation(folder: Path) -> float:
    """Return the best val/elbo of a run, or the best val/objective if it logs no ELBO."""
    validations = [row for row in read_metrics(folder / "metrics.csv") if "val/objective" in row]
    return max((row.get("val/elbo", row["val/objective"]) for row in validations), default=-math.inf)


def resume_hint(folder: Path) -> str:
    """Return a line that says how to resume the sweep in this folder."""
    return f"to resume this sweep if it is interrupted: {command()} sweep={shlex.quote(os.path.relpath(folder))}"


def requeue_trials(sweeper: DictConfig) -> None:
    """Make a resumed search start with the trials that were running when it was interrupted.

    Raises UserError if the file of the study is damaged.
    """
    import optuna
    from sqlalchemy.exc import DatabaseError

    try:
        studies = optuna.get_all_study_summaries(sweeper.storage)
    except DatabaseError as error:
        rename = "rename it, and the search begins again; its finished runs are kept"
        raise UserError(f"{sweeper.storage}: damaged ({error.orig}); {rename}") from None
    if sweeper.study_name in (study.study_name for study in studies):
        study = optuna.load_study(sweeper.study_name, sweeper.storage)
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)


def check_search(hydra: DictConfig) -> None:
    """Raise UserError if some runs of a search record an ELBO and others do not: their values cannot be compared."""
    params = (f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items())
    typed = map(parse_override, [*hydra.overrides.task, *params])
    search_path = [override for override in hydra.overrides.hydra if override.startswith(SEARCH_PATH)]
    folders = config_dirs(search_path)
    chosen = {o.key_or_group: override_values(o) for o in typed if choices(o.key_or_group, folders)}
    first = [*search_path, *(f"{group}={names[0]}" for group, names in chosen.items() if names)]
    bounds, normalized = {}, {}
    with initialize_conf(folders):
        for choice in (f"{group}={name}" for group, names in chosen.items() for name in names):
            cfg = compose("config", [*first, choice])
            objective, likelihood = (cfg[part].get("_target_") for part in ("objective", "likelihood"))
            bounds[choice] = "elbo" in get_class(objective).curves  # type: ignore[attr-defined]
            normalized[choice] = not likelihood or get_class(likelihood).normalized  # type: ignore[attr-defined]
    for records_elbo, others in ((bounds, normalized), (normalized, bounds)):
        for group, names in chosen.items():
            lacking = [name for name in names if not records_elbo[f"{group}={name}"]]
            if 0 < len(lacking) < len(names) and any(others.values()):
                reason = "records no ELBO, so a search cannot compare it with the others"
                raise UserError(f"{group}={','.join(lacking)}: {reason}")


class Sweep(Callback):
    """Hydra callback: save the command line of a sweep at its start, and print a table of its runs at its end."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Write the command line to sweep.json, for `sweep=` to resume, and print how to resume."""
        folder, is_search = Path(config.hydra.sweep.dir), "storage" in config.hydra.sweeper
        arguments = json.dumps(OmegaConf.to_container(config.hydra.overrides), indent=2) + "\n"
        try:
            if is_search:
                check_search(config.hydra)
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(arguments, folder / "sweep.json")
            if is_search:
                requeue_trials(config.hydra.sweeper)
        except USER_ERRORS as error:  # Hydra would turn it into a warning
            raise SystemExit(2) from error
        show(resume_hint(folder))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Log a table of the runs. Exit with code 1 unless all are finished."""
        folder = Path(config.hydra.sweep.dir)
        try:
            runs = find_runs([folder])
            log.info(f"\n{format_table(build_rows(runs))}\n\n{os.path.relpath(folder)}")
        except USER_ERRORS as error:  # Hydra would turn it into a warning
            log.error(one_line(error))
            sys.exit(1)
        if any(run.status != "finished" for run in runs):
            sys.exit(1)
