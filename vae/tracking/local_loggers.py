"""Loggers that write files on this machine: TensorBoard and MLflow. Their packages are optional."""

import os
from pathlib import Path

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from vae.errors import UserError


def needs(name: str, package: str) -> UserError:
    """Return the error for a logger whose package is not installed."""
    return UserError(f"logger={name} needs {package}: pip install -e '.[loggers]'")


class _TensorBoardLogger(TensorBoardLogger):
    @rank_zero_only
    def log_image(self, key: str, images: list[str], step: int) -> None:
        """Log a PNG file."""
        self.experiment.add_image(key, np.asarray(Image.open(images[0]).convert("RGB")), step, dataformats="HWC")


def tensorboard_logger(
    run_dir: str | Path,
    name: str,  # noqa: ARG001 - TensorBoard names a run by its folder
    job_type: str,  # noqa: ARG001
    group: str | None = None,  # noqa: ARG001
) -> TensorBoardLogger:
    """Write the metrics and pictures of a run to <run_dir>/tensorboard. A resumed run appends to them.

    Raises UserError if tensorboard is not installed.
    """
    try:
        return _TensorBoardLogger(run_dir, name="", version="tensorboard", default_hp_metric=False)
    except ModuleNotFoundError:
        raise needs("tensorboard", "tensorboard") from None


class _MLFlowLogger(MLFlowLogger):
    @rank_zero_only
    def log_image(self, key: str, images: list[str], step: int) -> None:
        """Log a PNG file. Its name has the step, so that no picture replaces another."""
        self.experiment.log_image(self.run_id, Image.open(images[0]), artifact_file=f"{key}/{step:08}.png")


def mlflow_logger(
    run_dir: str | Path, experiment: str, tracking_uri: str, name: str, job_type: str, group: str | None = None
) -> MLFlowLogger:
    """Start an MLflow run, or resume the one whose id is in <run_dir>/mlflow_id.

    Raises UserError if mlflow is not installed.
    """
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # file: stores need this since mlflow 3
    id_file = Path(run_dir) / "mlflow_id"
    run_id = id_file.read_text() if id_file.exists() else None
    tags = {"job_type": job_type} | ({"group": group} if group else {})
    try:
        logger = _MLFlowLogger(experiment, name, tracking_uri=tracking_uri, tags=tags, run_id=run_id)
    except ModuleNotFoundError:
        raise needs("mlflow", "mlflow") from None
    id_file.write_text(logger.run_id or "")
    return logger
