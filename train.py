"""Train a VAE: python train.py [key=value ...]; python train.py --help is the manual."""

import gc
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vae.config.command_line import check_overrides, resume_arguments, sweep_arguments
from vae.config.older_versions import current_config
from vae.config.schema import CONF, validate
from vae.errors import USER_ERRORS, UserError, one_line
from vae.training.ddp import run


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        from vae.training.sweep import job

        return job(cfg, folder)
    try:
        if cfg.resume:
            current_config(cfg)
        validate(cfg)
        run(cfg, folder)  # only now is torch imported
    except USER_ERRORS as error:
        if not cfg.resume and not (folder / "metrics.csv").exists():
            discard(folder)
        sys.exit(refuse(error))
    return None


def discard(folder: Path) -> None:
    """Remove what Hydra made for a run that never began: its files, and the folders that are empty without them."""
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    (folder / "train.log").unlink(missing_ok=True)
    with suppress(OSError):
        for empty in (folder, *folder.parents[:2]):
            empty.rmdir()


def refuse(error: Exception) -> int:
    """Say in one line what the user can put right; the exit code."""
    print(one_line(error), file=sys.stderr)
    return 2


def cli() -> int:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, _frame: sys.exit(128 + signum))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here, they are not printed
    try:
        typed = sweep_arguments(sys.argv[1:])
        sys.argv[1:] = resume_arguments(typed)
        if sys.argv[1:] == typed and not {"-sc", "--shell-completion"} & set(typed):
            check_overrides([arg for arg in typed if "=" in arg and not arg.startswith("-")])
        main()
    except USER_ERRORS as error:
        return refuse(error)
    except OSError as error:
        return refuse(UserError(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
    return 0


if __name__ == "__main__":
    gc.disable()  # until a training begins: a fifth of the time of imports went to looking for garbage among them
    sys.exit(cli())
