"""The loggers of a run, started from its config."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vae.config.command_line import run_name
from vae.config.stored_config import read_hydra, read_overrides, read_sweep


def build_loggers(cfg: DictConfig, folder: Path, names: Iterable[str] = ()) -> list[Any]:
    """Start the loggers of the config, or those of these names, and log the config. Runs of a sweep form a group."""
    parts = {name: part for name, part in cfg.logger.items() if not names or name in names}
    if not parts:
        return []
    overrides, hydra = read_overrides(folder), read_hydra(folder)
    about: dict[str, Any] = {"job_type": "train", "name": run_name(overrides)}
    if hydra.mode == "MULTIRUN":
        in_sweep = (folder.parent / "sweep.json").exists()
        sweep_overrides = read_sweep(folder.parent).task if in_sweep else overrides
        job_overrides = " ".join(override for override in overrides if override not in sweep_overrides)
        group = os.environ.get("WANDB_RUN_GROUP") or Path(hydra.runtime.output_dir).parent.name
        about = {"job_type": "sweep", "name": job_overrides or about["name"], "group": group}
    loggers = [instantiate(part, run_dir=folder, **(about | given_group(part))) for part in parts.values()]
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    return loggers


def given_group(logger: DictConfig) -> dict[str, str]:
    """Return the group of a logger's config, if it has one: it replaces that of the sweep."""
    return {"group": logger.group} if logger.get("group") else {}
