"""The jobs of a sweep: each is begun, gone on with or passed over, whatever becomes of the others; then, a table."""

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from vae.config import REFUSED, one_line, validate
from vae.processes import run
from vae.runs import find, records
from vae.table import text

log = logging.getLogger(__name__)


def job(cfg: DictConfig, folder: Path) -> float | None:
    """Run one job in its folder, unless that was done before; the best val/elbo, which a search maximises.

    A job that was cut off goes on from its last checkpoint. Why one failed is logged, and kept in failed.txt.
    """
    failed = folder / "failed.txt"
    if (folder / "summary.json").exists():
        log.info(f"{os.path.relpath(folder)} is finished")
        return best(folder)
    failed.unlink(missing_ok=True)
    if (folder / "checkpoints" / "last.ckpt").exists():
        with open_dict(cfg):
            cfg.resume = str(folder)
    else:
        begin_anew(folder)
    try:
        validate(cfg)
        run(cfg, folder)  # only now is torch imported
    except REFUSED as error:
        failed.write_text(one_line(error) + "\n")
        log.error(one_line(error))
    except Exception as error:
        failed.write_text(f"{type(error).__name__}: {one_line(error)}\n")
        log.exception("this run failed")
    else:
        return best(folder)
    return None


def begin_anew(folder: Path) -> None:
    """Remove what a job left that was cut off before its first checkpoint."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != ".hydra":
            shutil.rmtree(path)
        elif path.name in ("metrics.csv", "wandb_id"):
            path.unlink()


def best(folder: Path) -> float | None:
    """The best val/elbo of a run; None of one that records none."""
    return max((record["val/elbo"] for record in records(folder / "metrics.csv") if "val/elbo" in record), default=None)


class Sweep(Callback):
    """What Hydra calls before the first job of a sweep, and after the last."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Keep the line that was typed, for `sweep=` to go on with, and say so."""
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")
        print(f"whenever this sweep is cut off, python train.py sweep={os.path.relpath(folder)} goes on with it")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Show what came of them; exit code 1 if any failed."""
        folder = Path(config.hydra.sweep.dir)
        runs = find([folder])
        log.info(f"\n{text(runs)}\n\n{os.path.relpath(folder)}")
        if any(run.status == "failed" for run in runs):
            sys.exit(1)
