"""What happens around the steps: the progress bar, the pictures, a clean stop."""

import logging
import multiprocessing
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vae import figures
from vae.captured import Captured
from vae.compiled import STEPS, Compiled, attempt
from vae.loggers import MetricsCSV

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


class Pictures(Callback):
    """PNGs in `folder`, and in every logger that takes pictures.

    After epochs 1, 2, 4, 8, ... the samples, and validation images beside their reconstructions; after the test the
    rest, from test images.
    """

    def __init__(self, folder: Path, history: MetricsCSV) -> None:
        self.folder, self.history = folder, history

    def show(self, trainer: Trainer, name: str, picture: figures.Picture) -> None:
        file = self.folder / f"{name}.png"
        figures.save(picture, file)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):  # a PNG takes longer to make than to copy
                logger.log_image(key=name, images=[str(file)], step=trainer.global_step)

    @rank_zero_only
    @torch.inference_mode()
    def on_validation_end(self, trainer: Any, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch & (epoch - 1) == 0:
            x = trainer.datamodule.x("val", slice(50)).to(module.device)
            self.show(trainer, "val_reconstructions", figures.reconstructions(module.vae, x))
            self.show(trainer, "samples", figures.samples(module.vae))

    @rank_zero_only
    @torch.inference_mode()
    def on_test_end(self, trainer: Any, module: Any) -> None:
        data = trainer.datamodule
        codes = torch.cat(module.tested.codes)
        x = data.x("test", slice(50)).to(module.device)
        self.show(trainer, "reconstructions", figures.reconstructions(module.vae, x))
        self.show(trainer, "samples", figures.samples(module.vae))
        self.show(trainer, "latents", figures.latents(codes, data.images["test"].labels))
        known = data.images["train"]
        chunks = (data.x("train", slice(i, i + 500)) for i in range(0, min(len(known.pixels), 5000), 500))
        learned = torch.cat([module.vae.q_z(x.to(module.device)).mean for x in chunks])
        self.show(trainer, "mixture_samples", figures.mixture_samples(module.vae, learned))
        pairs = torch.linspace(0, len(known.pixels) - 1, 16).long()
        names = known.names and [known.names[i] for i in pairs]
        x = data.x("train", pairs).to(module.device)
        self.show(trainer, "fusions", figures.fusions(module.vae, x, names))
        if codes.shape[1] == 2:
            self.show(trainer, "manifold", figures.manifold(module.vae))
        self.show(trainer, "curves", figures.curves(self.history.rows, list(module.curves)))


class Kept(ModelCheckpoint):
    """The one checkpoint of its name; after the run's folder was moved, it is the one that moved with it."""

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        super().__init__(folder, name, enable_version_counter=False, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return os.path.join(str(self.dirpath), os.path.basename(path)) if path else ""

        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path")}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": scores})


class Patience(EarlyStopping):
    """Ends a training that gets no better, and keeps it ended when it is resumed."""

    def on_train_start(self, trainer: Trainer, _module: Any) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class CleanStop(Callback):
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


def whole_batch(trainer: Any) -> torch.Tensor:
    """Images such as a step is taken on."""
    data = trainer.datamodule
    return data.x("train", slice(data.batch_size)).to(trainer.strategy.root_device)


class CompiledSteps(Callback):
    """Compiles a training's step before it begins."""

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        module.compiled = attempt(lambda: Compiled(module, whole_batch(trainer)), True)


class CompiledLater(Callback):
    """Compiles the step of a training before its second epoch, if it can be, and STEPS or more are then to come."""

    def __init__(self, stop: CleanStop) -> None:
        self.stop = stop
        self.due = True

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        if self.due and trainer.current_epoch and module.steps - trainer.datamodule.batches_per_epoch >= STEPS:
            self.due, begun = False, time.perf_counter()
            with self.stop.at_once():
                module.compiled = attempt(lambda: Compiled(module, whole_batch(trainer)), "auto")
            module.since += time.perf_counter() - begun


class CapturedSteps(Callback):
    """Has a training's steps played back, if its optimiser is made for that."""

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        optimizer = module.optimizers().optimizer
        if "capturable" not in optimizer.defaults:
            log.info(f"cuda_graph: {type(optimizer).__name__} is not made for graphs; its steps are taken one by one")
            return
        module.captured = Captured(module, whole_batch(trainer))

    def on_train_end(self, _trainer: Trainer, module: Any) -> None:
        module.captured = None
