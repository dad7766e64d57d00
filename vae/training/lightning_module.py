"""The training loop's view of a VAE: steps, records, learning rate, and what a checkpoint must hold. No mathematics."""

import math
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from datamodules.base import Batches, RNGPurpose, generator
from vae.acceleration.compilation import CompiledStep
from vae.acceleration.cuda_graph import CUDAGraphStepper
from vae.config.older_versions import rename_callbacks
from vae.errors import UserError
from vae.model.objectives import Objective
from vae.model.vae import VAE
from vae.training.metrics import RunningMeans, TestMetrics

# What two terms are called where log p(x|z) is the log of no distribution, and bounds nothing.
UNNORMALIZED = {"elbo": "minus_cross_entropy_less_kl", "log_likelihood": "minus_cross_entropy"}


class VAEModule(LightningModule):
    """Trains `vae` to maximise `objective`; tests it with `K` importance samples on `images` test images (None: all).

    `optimizer` takes the parameters; `objective` takes the terms and the part of the run that is done, in [0, 1];
    `schedule` takes that part alone, and gives the factor of the learning rate. Steps on whole
    batches are those of `compiled` and `captured`, once there are such.
    """

    def __init__(
        self,
        vae: VAE,
        objective: Objective,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        schedule: Callable[[float], float],
        gradient_clip_val: float | None,
        seed: int,
        log_every_n_steps: int,
        K: int,
        images: int | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # a training_step is many steps of the optimiser
        self.vae = vae
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.gradient_clip_val = gradient_clip_val
        self.seed = seed
        self.every = log_every_n_steps
        self.K = K
        self.images = images
        self.compiled: CompiledStep | None = None
        self.captured: CUDAGraphStepper | None = None
        renamed = {} if vae.likelihood.normalized else UNNORMALIZED
        self.curves = {renamed.get(term, term): term for term in objective.curves}
        self.bounds = "elbo" in self.curves
        self.latest: dict[str, float] = {}
        self.loaded: dict[str, Any] = {}
        self.names = [*self.curves, "objective"]
        self.unread: list[tuple[Tensor, int]] = []  # the sums of steps, (n,), and their images, not yet among the means
        self.train_means = RunningMeans(self.names)
        self.images_seen = 0
        self.begun, self.before = time.perf_counter(), 0.0  # and the seconds of a run that this one goes on with

    def configure_optimizers(self) -> Optimizer:
        optimizer = self.optimizer(self.vae.parameters())
        self.peak = optimizer.defaults["lr"]
        return optimizer

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run. (Lightning's own estimate loads the data too early to resume an epoch.)"""
        trainer: Any = self.trainer
        limits = [trainer.max_steps, (trainer.max_epochs or -1) * trainer.datamodule.batches_per_epoch]
        return min(limit for limit in limits if limit > 0)

    @property
    def ahead(self) -> int:
        """Optimiser steps until something is recorded, or the run is over."""
        return max(0, min(self.every - self.global_step % self.every, self.steps - self.global_step))

    def lr(self, step: int) -> float:
        """The learning rate of the step after so many."""
        return self.peak * self.schedule((step + 1) / (self.steps + 1))

    def weight(self, step: int) -> float:
        """The weight of the objective in the step after so many."""
        return self.objective.weight(step / self.steps)

    def values(self, x: Tensor, weight: float | Tensor) -> Tensor:
        """The curves' values and, last, what is maximised, of images x: (n, B). Only the last has a gradient."""
        terms = self.vae.terms(x, self.objective.K)
        curves = [getattr(terms, term).detach() for term in self.curves.values()]
        return torch.stack([*curves, self.objective(terms, weight)])

    def record(self, values: dict[str, float], step: int | None = None) -> None:
        """Send values to every logger, at this number of optimiser steps; None: those taken so far."""
        seconds = self.before + time.perf_counter() - self.begun
        values = values | {"images_seen": self.images_seen, "seconds": round(seconds, 3)}
        self.latest = self.latest | values
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.global_step if step is None else step)

    def part(self, x: Tensor) -> Tensor:
        """This process' images of a batch: of n processes, each has every n-th."""
        return x[self.global_rank :: self.trainer.world_size]

    def all_reduce_sum(self, sums: Tensor) -> Tensor:
        """The sums over a whole batch, in place of those over this process' part of it."""
        return self.trainer.strategy.reduce(sums, reduce_op="sum")

    def gather_rows(self, state: Tensor) -> Tensor:
        """What every process has for this, (N,), as a row: (processes, N)."""
        rows = state.new_zeros(self.trainer.world_size, len(state), device=self.device)
        rows[self.global_rank] = state
        return self.all_reduce_sum(rows)

    def on_train_start(self) -> None:
        # else Lightning has gradients to scale, or to wait for
        self.plain = self.trainer.world_size == 1 and self.trainer.precision == "32-true"
        if self.global_rank:  # other images, other noise; the first draws that of a run alone
            rank = generator(torch.device("cpu"), RNGPurpose.RANK, self.seed, self.global_rank)
            torch.manual_seed(rank.initial_seed())
        if self.loaded:
            self.restore_training_state(**self.loaded)
        self.since, self.untimed = time.perf_counter(), self.train_means.images

    def restore_training_state(
        self, rng_state: list[Tensor], train_means: dict[str, Any], images_seen: int, seconds: float
    ) -> None:
        """Be where a training was when it saved this."""
        cpu, *gpus = (torch.atleast_2d(states)[self.global_rank].clone() for states in rng_state)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(gpus)
        vars(self.train_means).update(train_means)
        self.images_seen, self.before = images_seen, seconds

    def training_step(self, batches: Batches, _i: int) -> None:
        """A step of the optimiser for each of the batches; how they went is read when it is recorded."""
        left = iter(batches)
        most = self.captured.most if self.captured else 1
        while now := list(islice(left, min(self.ahead, most))):
            self.unread += zip(self.steps_on(now), map(len, now), strict=True)
            if self.global_step % self.every == 0 or self.global_step == self.steps:
                self.record_training()

    def steps_on(self, batches: list[Tensor]) -> list[Tensor]:
        """A step of the optimiser on each; the sums of their values, (n,), over this process' part of them."""
        if not self.captured:
            return [self.step(x) for x in batches]
        whole = [x for x in batches if x.shape == self.captured.shape]
        sums = self.captured.steps(whole, self.global_step) if whole else []
        return sums + [self.step(x) for x in batches[len(whole) :]]

    def step(self, x: Tensor) -> Tensor:
        """A step of the optimiser on images x; the sums of their values, (n,), over this process' part of them."""
        optimizer: Any = self.optimizers()
        sums = self.gradients(x, self.weight(self.global_step))
        for group in optimizer.param_groups:
            group["lr"] = self.lr(self.global_step)
        if self.plain:
            optimizer.optimizer.step()
            self.report(1)
        else:
            optimizer.step()
        return sums

    def report(self, n: int) -> None:
        """Tell Lightning of n steps of torch's optimiser; its own takes a while for what it adds."""
        progress: Any = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for _ in range(n):
            progress.increment_ready()
            progress.increment_completed()

    def gradients(self, x: Tensor, weight: float | Tensor) -> Tensor:
        """Set the gradients of a step on images x, clipped; the sums of their values, (n,)."""
        sums = self.differentiate(x, weight)
        if self.gradient_clip_val:
            optimizer: Any = self.optimizers()
            self.clip_gradients(optimizer, self.gradient_clip_val, "norm")
        return sums

    def forward(self, x: Tensor, weight: float | Tensor) -> tuple[Tensor, Tensor]:
        """What a step on a batch of images x minimises; and the sums of their values, (n,)."""
        values = self.values(self.part(x), weight)
        # the gradients of n processes are averaged, and so each has n times its part of the batch's mean
        return -values[-1].sum() / len(x) * self.trainer.world_size, values.detach().sum(1)

    def differentiate(self, x: Tensor, weight: float | Tensor) -> Tensor:
        """Set the gradients of a step on a batch of images x; the sums of their values, (n,)."""
        if self.compiled and x.shape == self.compiled.shape:  # a smaller batch, the last, is not worth a function
            return self.compiled.differentiate(x, weight)
        loss, sums = self(x, weight)
        self.zero_grad()
        self.manual_backward(loss)
        return sums

    def count(self) -> None:
        """Add the sums of the steps since the last time to the means; UserError if an objective was not finite."""
        if not self.unread:
            return
        taken, self.unread = self.unread, []
        sums = self.all_reduce_sum(torch.stack([sums for sums, _ in taken])).cpu()
        images = [images for _, images in taken]
        means = (sums / sums.new_tensor(images)[:, None]).tolist()
        for i, (*of_curves, objective) in enumerate(means):
            if not math.isfinite(objective):
                step = self.global_step - len(taken) + i + 1
                if self.train_means.images:
                    self.record(self.train_means.read("train"), step - 1)
                raise UserError(self.diverged(f"at step {step}", dict(zip(self.curves, of_curves, strict=True))))
            self.train_means.add(sums[i], images[i])
            self.images_seen += images[i]

    def diverged(self, when: str, means: dict[str, float]) -> str:
        """The line for a loss that is no finite number: the term that broke, and what usually helps."""
        broken = [name for name, mean in means.items() if not math.isfinite(mean)]
        # a sum is broken by its parts, which come after it
        culprit = f"{broken[-1]} is {means[broken[-1]]}" if broken else "the objective is not finite"
        return f"the training diverged {when}: {culprit}; a lower optimizer.lr, or gradient_clip_val=100, usually helps"

    def record_training(self) -> None:
        """Record the means of what was trained on since the last time."""
        self.count()
        now = time.perf_counter()
        images_per_second = (self.train_means.images - self.untimed) / (now - self.since)
        self.record(
            self.train_means.read("train")
            | {"lr": self.lr(self.global_step - 1), "images_per_second": images_per_second}
        )
        self.train_means, self.since, self.untimed = RunningMeans(self.names), now, 0

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.is_last_batch and (self.unread or self.train_means.images):
            self.record_training()

    def on_validation_epoch_start(self) -> None:
        self.val_means, self.val_since = RunningMeans(self.names), time.perf_counter()

    def validation_step(self, x: Tensor, _i: int) -> None:
        self.val_means.add(self.values(self.part(x), self.objective.weight(1.0)).sum(1), len(x))

    def on_validation_epoch_end(self) -> None:
        self.val_means.sums = self.all_reduce_sum(torch.as_tensor(self.val_means.sums))
        values = self.val_means.read("val")
        if not math.isfinite(values["val/objective"]):
            means = {name: values[f"val/{name}"] for name in self.curves}
            raise UserError(self.diverged(f"in epoch {self.current_epoch + 1}", means))
        self.log_dict(values, logger=False, sync_dist=True)  # for the checkpoint of the best epoch
        self.record(values | {"epoch": self.current_epoch + 1})

    def on_validation_end(self) -> None:
        self.since += time.perf_counter() - self.val_since

    def on_test_start(self) -> None:
        torch.manual_seed(self.seed)
        trainer: Any = self.trainer
        mean_image = trainer.datamodule.mean_image().to(self.device)
        self.tested = TestMetrics(self.vae, self.curves, mean_image, self.K if self.bounds else 0, self.images)

    def test_step(self, x: Tensor, _i: int) -> None:
        self.tested.add(x)

    def on_test_epoch_end(self) -> None:
        self.record(self.tested.read())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.count()
        states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        checkpoint["training"] = {
            "rng_state": [self.gather_rows(state).cpu() for state in states],
            "train_means": vars(self.train_means),
            "images_seen": self.images_seen,
            "seconds": self.before + time.perf_counter() - self.begun,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rename_callbacks(checkpoint)
        self.loaded = checkpoint["training"]  # for a training to go on from; a test takes the weights alone
