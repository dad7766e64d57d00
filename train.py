"""Train a VAE: python train.py [key=value ...]; python train.py --help is the manual."""

import logging
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vae.config import CONF, UserError, check_overrides, one_line, resume_arguments, validate

log = logging.getLogger("train")


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    folder, mode = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().mode
    try:
        validate(cfg)
        from vae.experiment import run  # only now is torch imported

        run(cfg, folder)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if mode is RunMode.MULTIRUN:
            log.error(one_line(error))
            raise
        if not cfg.resume:
            discard(folder)
        sys.exit(refuse(error))


def discard(folder: Path) -> None:
    """Remove the folder of a run that never began, and the day's folder if it was the first."""
    shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()
        folder.parent.parent.rmdir()


def refuse(error: Exception) -> int:
    """Say in one line what the user can put right; the exit code."""
    print(one_line(error), file=sys.stderr)
    return 2


def cli() -> int:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, _frame: sys.exit(128 + signum))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here, they are not printed
    try:
        sys.argv[1:] = resume_arguments(sys.argv[1:])
        if not {"-sc", "--shell-completion"} & set(sys.argv):
            check_overrides([arg for arg in sys.argv[1:] if "=" in arg and not arg.startswith("-")])
        main()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(cli())
