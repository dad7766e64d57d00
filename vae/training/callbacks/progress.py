"""The callback that shows progress bars and logs one line per validation."""

import logging
import multiprocessing
from contextlib import ExitStack
from typing import Any

from pytorch_lightning import Callback, Trainer
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)


def progress_bar(trainer: Trainer, description: str, total: int, initial: int = 0) -> tqdm:
    """Return a bar; it shows nothing if stderr is neither a terminal nor in a notebook.

    Nor does it in jobs of a sweep that run in parallel, which would overwrite each other's bars.
    """
    parallel_job = multiprocessing.parent_process() and trainer.world_size == 1
    disable = True if parallel_job else None  # None: if stderr is not a terminal and this is no notebook
    return tqdm(desc=description, total=total, initial=initial, mininterval=0.3, dynamic_ncols=True, disable=disable)


class Progress(Callback):
    """Show one bar for the whole training, with its latest metrics, and one for the test; log a line per validation."""

    def __init__(self) -> None:
        self.contexts = ExitStack()
        self.shown_metrics: dict[str, float] = {}

    def start_bar(self, trainer: Trainer, description: str, total: int, initial: int = 0) -> None:
        self.contexts.enter_context(logging_redirect_tqdm())
        self.bar = self.contexts.enter_context(progress_bar(trainer, description, total, initial))

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.start_bar(trainer, "train", module.total_steps, trainer.global_step)

    def on_train_batch_end(self, _trainer: Any, module: Any, *_: Any) -> None:
        self.bar.update(module.global_step - self.bar.n)
        metrics = module.latest_metrics
        if metrics is not self.shown_metrics and "train/objective" in metrics:
            self.shown_metrics = metrics
            self.bar.set_postfix({name: f"{metrics[f'train/{name}']:.1f}" for name in module.curves}, refresh=False)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        metrics, first = module.latest_metrics, next(iter(module.curves))
        log.info(
            f"epoch {trainer.current_epoch + 1:>3}   train {first} {metrics[f'train/{first}']:>8.2f}   val "
            + "   ".join(f"{name} {metrics[f'val/{name}']:>8.2f}" for name in module.curves)
        )

    def on_test_start(self, trainer: Trainer, _module: Any) -> None:
        self.start_bar(trainer, "test", int(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_end(self, *_: Any) -> None:
        self.contexts.close()

    def on_test_end(self, *_: Any) -> None:
        self.contexts.close()

    def on_exception(self, *_: Any) -> None:
        self.contexts.close()
