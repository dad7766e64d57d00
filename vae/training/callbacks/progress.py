"""The progress bar and the line of each validation."""

import logging
import multiprocessing
import sys
from contextlib import ExitStack
from typing import Any

from pytorch_lightning import Callback, Trainer
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)


class Progress(Callback):
    """One bar for the whole training, with its curves and the time left; one for the test; a line per validation."""

    def __init__(self) -> None:
        self.shown = ExitStack()
        self.latest: dict[str, float] = {}

    def start(self, trainer: Trainer, what: str, total: int, done: int = 0) -> None:
        self.shown.enter_context(logging_redirect_tqdm())
        of_many = multiprocessing.parent_process() and trainer.world_size == 1  # bars of many runs hide each other
        hidden = bool(of_many) or not sys.stderr.isatty()
        self.bar = self.shown.enter_context(
            tqdm(desc=what, total=total, initial=done, mininterval=0.3, dynamic_ncols=True, disable=hidden)
        )

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.start(trainer, "train", module.steps, trainer.global_step)

    def on_train_batch_end(self, _trainer: Any, module: Any, *_: Any) -> None:
        self.bar.update(module.global_step - self.bar.n)
        if module.latest is not self.latest and "train/objective" in module.latest:
            self.latest = module.latest
            curves = {name: f"{self.latest[f'train/{name}']:.1f}" for name in module.curves}
            self.bar.set_postfix(curves, refresh=False)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        latest, bound = module.latest, next(iter(module.curves))
        log.info(
            f"epoch {trainer.current_epoch + 1:>3}   train {bound} {latest[f'train/{bound}']:>8.2f}   val "
            + "   ".join(f"{name} {latest[f'val/{name}']:>8.2f}" for name in module.curves)
        )

    def on_test_start(self, trainer: Trainer, _module: Any) -> None:
        self.start(trainer, "test", int(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_end(self, *_: Any) -> None:
        self.shown.close()

    def on_test_end(self, *_: Any) -> None:
        self.shown.close()

    def on_exception(self, *_: Any) -> None:
        self.shown.close()
