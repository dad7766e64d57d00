"""The callback that stops a training on Ctrl-C, SIGTERM or SIGHUP."""

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from vae.config.command_line import command
from vae.training.signals import exit_if_signalled, exit_later, handle_signals, restore_handlers, signal_exit_code

log = logging.getLogger(__name__)


class GracefulShutdown(Callback):
    """On a signal of STOP_SIGNALS, finish the current chunk of batches, save a checkpoint, and exit with 128 + signal.

    A second signal exits at once. With several processes, all of them stop if one received a signal. A training in
    another thread than the main one leaves signals alone.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_train_start(self, *_: Any) -> None:
        self.previous_handlers = handle_signals(exit_later)

    def all_reduce_exit_code(self, trainer: Trainer) -> int:
        """Return the highest exit code of all processes; 0 if none received a signal."""
        if trainer.world_size == 1:
            return signal_exit_code()
        code = torch.tensor(signal_exit_code(), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(code, reduce_op="max"))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.is_last_batch and (code := self.all_reduce_exit_code(trainer)):
            trainer.save_checkpoint(self.checkpoint)
            self.exit(code)

    def on_train_epoch_start(self, trainer: Trainer, _module: Any) -> None:
        """With one chunk per epoch, stop between epochs, if the last epoch ended with a validation and a checkpoint."""
        epochs, one_chunk = trainer.current_epoch, trainer.num_training_batches == 1
        saved = epochs and epochs % (trainer.check_val_every_n_epoch or 1) == 0
        if one_chunk and saved and (code := self.all_reduce_exit_code(trainer)):
            self.exit(code)

    def exit(self, code: Any) -> None:
        """Log how to resume, and exit."""
        log.info(f"training stopped; to resume: {command()} resume={shlex.quote(str(self.checkpoint.parent.parent))}")
        raise SystemExit(code)

    @contextmanager
    def stop_immediately(self) -> Iterator[None]:
        """Exit at the first signal inside this context, or at once if there was one. Use it between epochs only."""
        restore_handlers(self.previous_handlers)
        try:
            exit_if_signalled()
            yield
            exit_if_signalled()
        except SystemExit as error:
            if self.checkpoint.exists():
                self.exit(error.code)
            raise
        handle_signals(exit_later)

    def on_train_end(self, trainer: Trainer, _module: Any) -> None:
        restore_handlers(self.previous_handlers)
        if code := self.all_reduce_exit_code(trainer):
            raise SystemExit(code)

    def on_test_batch_start(self, *_: Any) -> None:
        exit_if_signalled()
