"""Checkpoints, early stopping, and the end of a training by a signal."""

import logging
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

log = logging.getLogger(__name__)


class NamedCheckpoint(ModelCheckpoint):
    """The one checkpoint of its name; after the run's folder was moved, it is the one that moved with it."""

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        super().__init__(folder, name, enable_version_counter=False, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return os.path.join(str(self.dirpath), os.path.basename(path)) if path else ""

        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path")}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": scores})


class ResumableEarlyStopping(EarlyStopping):
    """Stop a training whose highest `monitor` is `patience` validations old. It stays stopped when it is resumed."""

    def __init__(self, monitor: str, patience: int) -> None:
        super().__init__(monitor, patience=patience, mode="max", check_on_train_epoch_end=False)

    def on_train_start(self, trainer: Trainer, _module: Any) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class GracefulShutdown(Callback):
    """Ctrl-C or SIGTERM ends the training after the batches under way: checkpoint written, exit code 128 + signal.

    A second signal ends it at once. Of several processes, all stop when one was asked to.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.code = 0

    def ask(self, signum: int, _frame: FrameType | None) -> None:
        if self.code:
            raise SystemExit(self.code)
        self.code = 128 + signum

    def on_train_start(self, *_: Any) -> None:
        self.before = {signum: signal.signal(signum, self.ask) for signum in (signal.SIGINT, signal.SIGTERM)}

    def agreed(self, trainer: Trainer) -> int:
        """The exit code that any of the processes was asked for, or 0."""
        if trainer.world_size == 1:
            return self.code
        code = torch.tensor(self.code, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(code, reduce_op="max"))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.is_last_batch and (code := self.agreed(trainer)):
            trainer.save_checkpoint(self.checkpoint)
            self.stop(code)

    def on_train_epoch_start(self, trainer: Trainer, _module: Any) -> None:
        """Where an epoch is one batch of batches, stop between two, if the first was validated, and so is written."""
        epochs, alone = trainer.current_epoch, trainer.num_training_batches == 1
        written = epochs and epochs % (trainer.check_val_every_n_epoch or 1) == 0
        if alone and written and (code := self.agreed(trainer)):
            self.stop(code)

    def stop(self, code: Any) -> None:
        log.info(f"stopped; to go on: python train.py resume={shlex.quote(str(self.checkpoint.parent.parent))}")
        raise SystemExit(code)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, before the steps of an epoch, the first signal ends the training."""
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        try:
            if self.code:
                raise SystemExit(self.code)
            yield
        except SystemExit as asked:
            if self.checkpoint.exists():
                self.stop(asked.code)
            raise
        for signum in self.before:
            signal.signal(signum, self.ask)

    def on_train_end(self, trainer: Trainer, _module: Any) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        if code := self.agreed(trainer):
            raise SystemExit(code)
