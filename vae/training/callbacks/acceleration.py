"""When the steps of a training are compiled, or recorded as a CUDA graph."""

import logging
import time
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from vae.acceleration.compilation import STEPS, CompiledStep, try_compile
from vae.acceleration.cuda_graph import CUDAGraphStepper
from vae.training.callbacks.checkpoints import GracefulShutdown

log = logging.getLogger(__name__)


def whole_batch(trainer: Any) -> torch.Tensor:
    """Images such as a step is taken on."""
    data = trainer.datamodule
    return data.x("train", slice(data.batch_size)).to(trainer.strategy.root_device)


class CompileAtStart(Callback):
    """Compiles a training's step before it begins."""

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        module.compiled = try_compile(lambda: CompiledStep(module, whole_batch(trainer)), True)


class DelayedCompile(Callback):
    """Compiles the step of a training before its second epoch, if it can be, and STEPS or more are then to come."""

    def __init__(self, stop: GracefulShutdown) -> None:
        self.stop = stop
        self.due = True

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        if self.due and trainer.current_epoch and module.steps - trainer.datamodule.batches_per_epoch >= STEPS:
            self.due, begun = False, time.perf_counter()
            with self.stop.at_once():
                module.compiled = try_compile(lambda: CompiledStep(module, whole_batch(trainer)), "auto")
            module.since += time.perf_counter() - begun


class CUDAGraphSteps(Callback):
    """Has a training's steps played back, if its optimiser is made for that."""

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        optimizer = module.optimizers().optimizer
        if "capturable" not in optimizer.defaults:
            log.info(f"cuda_graph: {type(optimizer).__name__} is not made for graphs; its steps are taken one by one")
            return
        module.captured = CUDAGraphStepper(module, whole_batch(trainer))

    def on_train_end(self, _trainer: Trainer, module: Any) -> None:
        module.captured = None
