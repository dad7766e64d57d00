"""Checkpoints and early stopping."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from vae.runs.atomic_files import atomic_path
from vae.runs.checkpoint_files import BEST, LAST, PREVIOUS, is_intact

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its target, to the disk, and then rename it: an interruption damages nothing.

    The previous checkpoint of the training is kept as well. The results in summary.json belong to the best
    weights: the file is removed before these change.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        assert storage_options is None
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as part:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if target.name == LAST and target.exists():
                target.replace(target.with_name(PREVIOUS))
            if target.name == BEST:
                (target.parents[1] / "summary.json").unlink(missing_ok=True)


class NamedCheckpoint(ModelCheckpoint):
    """Keep one checkpoint, <folder>/<name>.ckpt. Its stored paths stay valid if the run's folder is moved."""

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        super().__init__(folder, name, enable_version_counter=False, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.monitor and not is_intact(Path(str(self.dirpath), BEST)):
            log.warning(f"{BEST} is missing or damaged; the best of the remaining epochs replaces it")
            return

        def current_path(path: str) -> str:
            return os.path.join(str(self.dirpath), os.path.basename(path)) if path else ""

        paths = {key: current_path(state_dict[key]) for key in ("best_model_path", "kth_best_model_path")}
        scores = {current_path(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": scores})


class ResumableEarlyStopping(EarlyStopping):
    """Stop training after `patience` validations in a row without a new highest `monitor`.

    A training that stopped this way stays stopped when it is resumed.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        super().__init__(monitor, patience=patience, mode="max", check_on_train_epoch_end=False)

    def on_train_start(self, trainer: Trainer, _module: Any) -> None:
        trainer.should_stop = self.wait_count >= self.patience
