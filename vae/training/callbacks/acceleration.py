"""Callbacks that compile the training step, or capture it as a CUDA graph."""

import logging
import time
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer

from vae.acceleration.compilation import MIN_STEPS, CompiledStep, check_compiler, try_compile
from vae.acceleration.cuda_graph import CUDAGraphStepper
from vae.errors import UserError
from vae.training.callbacks.graceful_shutdown import GracefulShutdown

log = logging.getLogger(__name__)


def example_batch(trainer: Any) -> list[torch.Tensor]:
    """Return a full batch on the training device: training images and, for a conditional model, their labels."""
    data, rows = trainer.datamodule, slice(trainer.datamodule.batch_size)
    return [part.to(trainer.strategy.root_device) for part in (data.x("train", rows), *data.y("train", rows))]


class CompileAtStart(Callback):
    """Compile the training step before training starts. Raises UserError if that fails."""

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        module.compiled_step = try_compile(lambda: CompiledStep(module, *example_batch(trainer)), True)


class DelayedCompile(Callback):
    """Compile the training step after the first epoch, if at least MIN_STEPS steps follow.

    If that fails, training continues without compilation.
    """

    def __init__(self, shutdown: GracefulShutdown) -> None:
        self.shutdown = shutdown
        self.pending = True

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        if not self.pending or trainer.current_epoch == 0:
            return
        if module.total_steps - trainer.datamodule.batches_per_epoch >= MIN_STEPS:
            self.pending, start_time = False, time.perf_counter()
            with self.shutdown.stop_immediately():
                module.compiled_step = try_compile(lambda: CompiledStep(module, *example_batch(trainer)), "auto")
            module.training_metrics.exclude(time.perf_counter() - start_time)


class CUDAGraphSteps(Callback):
    """Take the training steps with a CUDA graph, if the optimizer supports it."""

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        optimizer = module.optimizers().optimizer
        if "capturable" not in optimizer.defaults:
            log.info(f"cuda_graph: {type(optimizer).__name__} does not support CUDA graphs; training without one")
            return
        module.cuda_graph = CUDAGraphStepper(module, *example_batch(trainer))

    def on_train_end(self, _trainer: Trainer, module: Any) -> None:
        module.cuda_graph = None


def acceleration_callbacks(cfg: DictConfig, shutdown: GracefulShutdown) -> list[Callback]:
    """Return the callbacks that compile the training step or capture it as a CUDA graph.

    Raises UserError if the machine or the trainer does not support what the config asks for.
    """
    accelerator, processes = cfg.trainer.accelerator, cfg.trainer.get("devices", 1)
    gpu = accelerator in ("gpu", "cuda")
    if gpu and not torch.accelerator.is_available():
        raise UserError(f"trainer.accelerator={accelerator}: no GPU was found; expected cpu")
    compiles, captures = cfg.get("compile"), cfg.get("cuda_graph")  # older runs lack these keys
    precision = cfg.trainer.get("precision")
    full_precision = precision in (None, 32, "32", "32-true")
    if (compiles is True or captures) and not full_precision:
        raise UserError(f"trainer.precision={precision}: expected 32-true with compile=true or cuda_graph=true")
    callbacks: list[Callback] = []
    if compiles == "auto" and accelerator == "cpu" and processes == 1 and full_precision:
        callbacks.append(DelayedCompile(shutdown))
    elif compiles is True:
        if processes > 1:
            raise UserError(f"compile=true: expected training in one process, not trainer.devices={processes}")
        try_compile(check_compiler, True)  # before a W&B run starts
        callbacks.append(CompileAtStart())
    if captures:
        if not (gpu and processes == 1 and torch.cuda.is_available()):
            given = f"trainer.accelerator={accelerator} and trainer.devices={processes}"
            raise UserError(f"cuda_graph=true: expected one NVIDIA GPU, as with trainer=gpu; not {given}")
        callbacks.append(CUDAGraphSteps())
    return callbacks
