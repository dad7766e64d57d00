"""The optimizer steps of a LightningModule: gradients, clipping, skipped steps, learning rates.

Shapes: B images in a batch, (C, H, W) one image, n metrics.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from vae.acceleration.compilation import CompiledStep
from vae.acceleration.cuda_graph import CUDAGraphStepper
from vae.model.objectives import Objective
from vae.model.vae import VAE
from vae.training.callbacks.weight_average import WeightAverage

# Metric names for likelihoods that are not normalised: their "elbo" is not a bound on log p(x).
UNNORMALIZED = {"elbo": "minus_cross_entropy_less_kl", "log_likelihood": "minus_cross_entropy"}


class OptimizerSteps(LightningModule):
    """Take optimizer steps that maximise `objective`.

    `optimizer` is called with the parameters. `schedule` is called with the fraction of the training that is done, in
    [0, 1], and returns the factor of the learning rate. Callbacks set `compiled_step` and `cuda_graph`, which then take
    the steps on full batches, and `average`, which is updated after each step. `N` is the number of training images,
    for objectives that need it.
    """

    def __init__(
        self,
        vae: VAE,
        objective: Objective,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        schedule: Callable[[float], float],
        gradient_clip_val: float | None,
        skip_gradient_norm: float | None,
        N: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # one training_step takes several optimizer steps
        self.vae = vae
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.gradient_clip_val = gradient_clip_val
        self.skip_gradient_norm = skip_gradient_norm
        self.N = N
        self.compiled_step: CompiledStep | None = None
        self.cuda_graph: CUDAGraphStepper | None = None
        self.average: WeightAverage | None = None

        renamed = {} if vae.likelihood.normalized else UNNORMALIZED
        self.curves = {renamed.get(term, term): term for term in objective.curves}  # metric name: attribute of Terms
        self.logged = self.curves | {term: term for term in objective.details}
        self.metric_names = [*self.logged, "objective"]

    def configure_optimizers(self) -> Optimizer:
        optimizer = self.optimizer(self.vae.parameters())
        self.base_lr = optimizer.defaults["lr"]
        return optimizer

    def forward(self, x: Tensor, weight: float | Tensor, *y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of images x with labels y, and the sums of the metrics over this process's images, (n,)."""
        (shard, *labels), share = self.local_shard(x, *y)
        metrics = self.compute_metrics(shard, weight, *labels)
        # DDP averages the gradients of n processes, so each one scales its part of the batch mean by n
        return -metrics[-1].sum() / len(x) * self.trainer.world_size * share, metrics.detach().sum(1) * share

    def compute_metrics(self, x: Tensor, weight: float | Tensor, *y: Tensor) -> Tensor:
        """Return the metrics of images x, (n, B). Only the last one, the objective, has a gradient."""
        terms = self.objective.terms(self.vae.given(*y), x, self.N)
        logged = [getattr(terms, term).detach().expand(len(x)) for term in self.logged.values()]
        return torch.stack([*logged, self.objective(terms, weight)])

    def local_shard(self, *batch: Tensor) -> tuple[tuple[Tensor, ...], float]:
        """Return this process's part of a batch and its share: with n processes, every n-th image and its label.

        A batch of fewer than n images is computed by every process, with a share of 1/n: none is left without images.
        """
        n = self.trainer.world_size
        return (tuple(x[self.global_rank :: n] for x in batch), 1.0) if len(batch[0]) >= n else (batch, 1 / n)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run. Lightning's estimate would load the data too early to resume an epoch."""
        trainer: Any = self.trainer
        batches = trainer.datamodule.batches_per_epoch if trainer.datamodule else trainer.num_training_batches
        limits = [trainer.max_steps, (trainer.max_epochs or -1) * batches]
        return min(limit for limit in limits if limit > 0)

    @property
    def uses_raw_optimizer(self) -> bool:
        """Lightning's optimizer wrapper is slow, and needed only to scale gradients or to synchronise processes."""
        return self.trainer.world_size == 1 and self.trainer.precision != "16-mixed"

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the optimizer step after `step` others."""
        return self.base_lr * self.schedule((step + 1) / (self.total_steps + 1))

    def set_learning_rate(self, lr: float | Tensor) -> None:
        """Set the learning rate of the optimizer."""
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = lr

    def objective_weight(self, step: int) -> float:
        """Return the objective's weight (beta, for example) in the optimizer step after `step` others."""
        return self.objective.weight(step / self.total_steps)

    def train_on_batches(self, batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        """Take one optimizer step per batch; return each one's sums of metrics over this process's images, (n,)."""
        if not self.cuda_graph:
            return [self.train_on_batch(*batch) for batch in batches]
        full = [batch for batch in batches if batch[0].shape == self.cuda_graph.shape]
        sums = self.cuda_graph.steps(full, self.global_step) if full else []
        return sums + [self.train_on_batch(*batch) for batch in batches[len(full) :]]

    def train_on_batch(self, x: Tensor, *y: Tensor) -> Tensor:
        """Take an optimizer step on images x; return the sums of their metrics over this process's images, (n,)."""
        optimizer: Any = self.optimizers()
        sums = self.compute_gradients(x, self.objective_weight(self.global_step), *y)
        self.set_learning_rate(self.learning_rate(self.global_step))
        if self.uses_raw_optimizer:
            optimizer.optimizer.step()
            self.advance_step_counter(1)
        else:
            optimizer.step()
        if self.average:
            self.average.update()
        return sums

    def advance_step_counter(self, n: int) -> None:
        """Advance Lightning's step counter by n, after steps that did not go through its optimizer wrapper."""
        progress: Any = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for _ in range(n):
            progress.increment_ready()
            progress.increment_completed()

    def compute_gradients(self, x: Tensor, weight: float | Tensor, *y: Tensor) -> Tensor:
        """Set the gradients for images x, and clip them; return the sums of the metrics, (n,).

        A gradient whose norm exceeds `skip_gradient_norm`, or is not finite, is removed: an optimizer changes nothing
        without gradients. The sums of this step are NaN.
        """
        sums = self.forward_backward(x, weight, *y)
        if self.skip_gradient_norm and not self.gradient_norm() <= self.skip_gradient_norm:
            self.zero_grad()
            return torch.full_like(sums, math.nan)
        if self.gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.vae.parameters(), self.gradient_clip_val)
        return sums

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient, ()."""
        return torch.nn.utils.get_total_norm([p.grad for p in self.vae.parameters() if p.grad is not None])

    def forward_backward(self, x: Tensor, weight: float | Tensor, *y: Tensor) -> Tensor:
        """Set the gradients for images x; return the sums of the metrics, (n,)."""
        if self.compiled_step and x.shape == self.compiled_step.shape:  # the last batch of an epoch may be smaller
            return self.compiled_step.forward_backward(x, weight, *y)
        loss, sums = self(x, weight, *y)
        self.zero_grad()
        self.manual_backward(loss)
        return sums
