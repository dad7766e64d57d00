"""The LightningModule: training, validation and test steps, schedules, logged metrics, and the checkpoint's contents.

The mathematics is in vae/model. Shapes: B images in a batch, (C, H, W) one image, n metrics.
"""

import math
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Self

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from datamodules.labels import one_hot
from datamodules.loaders import Batches
from datamodules.pixels import RNGPurpose, check_pixels, generator, to_float
from vae.acceleration.compilation import CompiledStep
from vae.acceleration.cuda_graph import CUDAGraphStepper
from vae.config.older_versions import rename_callbacks
from vae.errors import UserError
from vae.model.objectives import Objective
from vae.model.vae import VAE
from vae.training.callbacks.weight_average import WeightAverage
from vae.training.metrics import RunningMeans, TestMetrics, TrainingMetrics, divergence_message

# Metric names for likelihoods that are not normalised: their "elbo" is not a bound on log p(x).
UNNORMALIZED = {"elbo": "minus_cross_entropy_less_kl", "log_likelihood": "minus_cross_entropy"}


def images_of(batch: Any) -> Tensor:
    """Return the images of a batch, (B, C, H, W), float in [0, 1]: the batch itself, or the first of its parts.

    Raises UserError for pixels of another type or range.
    """
    images = batch[0] if isinstance(batch, list | tuple) else batch
    return images if images.dtype is torch.float else to_float(check_pixels(images))


class VAEModule(LightningModule):
    """Train `vae` to maximise `objective`. Test it with `K` importance samples for each of `images` images (None: all).

    `optimizer` is called with the parameters. `schedule` is called with the fraction of the training that is done, in
    [0, 1], and returns the factor of the learning rate. Callbacks set `compiled_step` and `cuda_graph`, which then take
    the steps on full batches, and `average`, which is updated after each step. A conditional model has a number of
    `labels`: it is trained on pairs of images and labels, whole numbers below `labels`. `N` is the number of training
    images, for objectives that need it.
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
        labels: int = 0,
        N: int = 1,
        skip_gradient_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # one training_step takes several optimizer steps
        self.vae = vae
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.gradient_clip_val = gradient_clip_val
        self.skip_gradient_norm = skip_gradient_norm
        self.seed = seed
        self.log_every_n_steps = log_every_n_steps
        self.K = K
        self.images = images
        self.labels = labels
        self.N = N
        self.compiled_step: CompiledStep | None = None
        self.cuda_graph: CUDAGraphStepper | None = None
        self.average: WeightAverage | None = None

        renamed = {} if vae.likelihood.normalized else UNNORMALIZED
        self.curves = {renamed.get(term, term): term for term in objective.curves}  # metric name: attribute of Terms
        self.logged = self.curves | {term: term for term in objective.details}
        self.has_elbo = "elbo" in self.curves
        self.metric_names = [*self.logged, "objective"]
        self.latest_metrics: dict[str, float] = {}
        self.training_metrics = TrainingMetrics(self.metric_names, may_skip=bool(skip_gradient_norm))
        self.resume_state: dict[str, Any] = {}

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *_: Any, **__: Any) -> Self:
        """Raise UserError: a checkpoint has no config, so `vae.load` builds the model."""
        raise UserError(f"{checkpoint_path}: a checkpoint holds only weights; call vae.load(FOLDER).module instead")

    def configure_optimizers(self) -> Optimizer:
        optimizer = self.optimizer(self.vae.parameters())
        self.base_lr = optimizer.defaults["lr"]
        return optimizer

    def model_input(self, batch: Any) -> tuple[Tensor, ...]:
        """Return (x,), or (x, y) for a conditional model, of a batch: images, and one-hot labels, (B, labels).

        Raises UserError for pixels of another type or range, or if a conditional model gets no labels.
        """
        x = images_of(batch)
        if not self.labels:
            return (x,)
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise UserError("conditional=true: expected batches of images and labels, not of images alone")
        return x, one_hot(batch[1], self.labels)

    def forward(self, x: Tensor, weight: float | Tensor, *y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of images x with labels y, and the sums of the metrics over this process's images, (n,)."""
        (shard, *labels), share = self.local_shard(x, *y)
        metrics = self.compute_metrics(shard, weight, *labels)
        # DDP averages the gradients of n processes, so each one scales its part of the batch mean by n
        return -metrics[-1].sum() / len(x) * self.trainer.world_size * share, metrics.detach().sum(1) * share

    def on_fit_start(self) -> None:
        if self.resume_state:  # also of a complete training, which does not start again but is tested
            self.training_metrics.restore_run(self.resume_state)

    def on_train_start(self) -> None:
        # Lightning's optimizer wrapper is slow, and needed only to scale gradients or to synchronise processes
        self.uses_raw_optimizer = self.trainer.world_size == 1 and self.trainer.precision != "16-mixed"
        if self.global_rank:  # each process has its own noise; rank 0 has that of a run in one process
            rank = generator(torch.device("cpu"), RNGPurpose.RANK, self.seed, self.global_rank)
            torch.manual_seed(rank.initial_seed())
        if self.resume_state:
            self.restore_random_numbers(self.resume_state["rng_state"])
            self.training_metrics.restore_means(self.resume_state)
        self.training_metrics.start_interval()

    def training_step(self, batches: Any, _i: int) -> None:
        """Take one optimizer step per batch. Metrics stay on the device until they are logged.

        `batches` are those of a data module of this project, or one batch of another data loader.
        """
        if not isinstance(batches, Batches):
            check_pixels(images_of(batches))
            batches = [batches]
        remaining = map(self.model_input, batches)
        max_steps = self.cuda_graph.max_steps if self.cuda_graph else 1
        while chunk := list(islice(remaining, min(self.steps_until_log, max_steps))):
            self.training_metrics.add(self.train_on_batches(chunk), (len(x) for x, *_ in chunk))
            if self.global_step % self.log_every_n_steps == 0 or self.global_step == self.total_steps:
                self.log_training_metrics()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.is_last_batch and (self.training_metrics.pending or self.training_metrics.means.images):
            self.log_training_metrics()

    def on_validation_epoch_start(self) -> None:
        self.val_means, self.val_start_time = RunningMeans(self.metric_names), time.perf_counter()

    def validation_step(self, batch: Any, _i: int) -> None:
        x, *y = self.model_input(batch)
        final_weight = self.objective.weight(1.0)
        (shard, *labels), share = self.local_shard(x, *y)
        with torch.autocast(self.device.type, enabled=False):  # trainer.precision is for the training
            metrics = self.compute_metrics(shard, final_weight, *labels)
        self.val_means.update(metrics.sum(1) * share, len(x))

    def on_validation_epoch_end(self) -> None:
        self.val_means.sums = self.all_reduce_sum(torch.as_tensor(self.val_means.sums))
        values = self.val_means.compute("val")
        if not math.isfinite(values["val/objective"]):
            means = {name: values[f"val/{name}"] for name in self.logged}
            raise UserError(divergence_message(f"in epoch {self.current_epoch + 1}", means))
        self.log_dict(values, logger=False, sync_dist=True)  # for ModelCheckpoint and EarlyStopping
        if not self.trainer.sanity_checking:
            self.log_metrics(values | {"epoch": self.current_epoch + 1})

    def on_validation_end(self) -> None:
        self.training_metrics.exclude(time.perf_counter() - self.val_start_time)

    def on_test_start(self) -> None:
        torch.manual_seed(self.seed)
        trainer: Any = self.trainer
        mean_image = trainer.datamodule.mean_image().to(self.device) if trainer.datamodule else None
        self.test_metrics = TestMetrics(self.vae, self.curves, mean_image, self.K if self.has_elbo else 0, self.images)

    def test_step(self, batch: Any, _i: int) -> None:
        with torch.autocast(self.device.type, enabled=False):
            self.test_metrics.update(*self.model_input(batch))

    def on_test_epoch_end(self) -> None:
        self.log_metrics(self.test_metrics.compute())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.flush_metrics()
        states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        checkpoint["training"] = {
            "rng_state": [self.gather_rows(state).cpu() for state in states],
            **self.training_metrics.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rename_callbacks(checkpoint)
        self.resume_state = checkpoint["training"]  # used when a training starts; a test needs only the weights

    def restore_random_numbers(self, rng_state: list[Tensor]) -> None:
        """Restore the states of the random generators from a checkpoint."""
        cpu, *gpus = (torch.atleast_2d(states)[self.global_rank].clone() for states in rng_state)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(gpus)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run. Lightning's estimate would load the data too early to resume an epoch."""
        trainer: Any = self.trainer
        batches = trainer.datamodule.batches_per_epoch if trainer.datamodule else trainer.num_training_batches
        limits = [trainer.max_steps, (trainer.max_epochs or -1) * batches]
        return min(limit for limit in limits if limit > 0)

    @property
    def steps_until_log(self) -> int:
        """Optimizer steps until the next training metrics are logged or the run ends."""
        until_log = self.log_every_n_steps - self.global_step % self.log_every_n_steps
        return max(0, min(until_log, self.total_steps - self.global_step))

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
            self.training_metrics.skipped_steps += 1
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

    def compute_metrics(self, x: Tensor, weight: float | Tensor, *y: Tensor) -> Tensor:
        """Return the metrics of images x, (n, B). Only the last one, the objective, has a gradient."""
        terms = self.objective.terms(self.vae.given(*y), x, self.N)
        logged = [getattr(terms, term).detach().expand(len(x)) for term in self.logged.values()]
        return torch.stack([*logged, self.objective(terms, weight)])

    def flush_metrics(self) -> None:
        """Add the pending steps to the means. Raises UserError if the objective of a step is not finite."""
        if diverged := self.training_metrics.flush(self.all_reduce_sum):
            later_steps, terms = diverged
            step = self.global_step - later_steps
            if self.training_metrics.means.images:
                self.log_metrics(self.training_metrics.means.compute("train"), step - 1)
            raise UserError(divergence_message(f"at step {step}", terms))

    def log_training_metrics(self) -> None:
        """Log the training metrics since the last log, the learning rate and the speed.

        Raises UserError if all steps since the run began were skipped.
        """
        self.flush_metrics()
        means, speed = self.training_metrics.compute()
        if not means and "train/objective" not in self.latest_metrics:
            raise UserError(
                f"skip_gradient_norm={self.skip_gradient_norm}: every gradient had a larger norm or was not finite; "
                "expected a larger value, or a lower optimizer.lr"
            )
        self.log_metrics(means | {"lr": self.learning_rate(self.global_step - 1)} | speed)

    def log_metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Send values to every logger, at this number of optimizer steps (None: the number so far)."""
        metrics = self.training_metrics
        values = values | {"images_seen": metrics.images_seen, "seconds": round(metrics.seconds, 3)}
        self.latest_metrics = self.latest_metrics | values
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.global_step if step is None else step)

    def local_shard(self, *batch: Tensor) -> tuple[tuple[Tensor, ...], float]:
        """Return this process's part of a batch and its share: with n processes, every n-th image and its label.

        A batch of fewer than n images is computed by every process, with a share of 1/n: none is left without images.
        """
        n = self.trainer.world_size
        return (tuple(x[self.global_rank :: n] for x in batch), 1.0) if len(batch[0]) >= n else (batch, 1 / n)

    def all_reduce_sum(self, sums: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return self.trainer.strategy.reduce(sums, reduce_op="sum")

    def gather_rows(self, row: Tensor) -> Tensor:
        """Gather a tensor, (N,), from every process: (processes, N)."""
        rows = row.new_zeros(self.trainer.world_size, len(row), device=self.device)
        rows[self.global_rank] = row
        return self.all_reduce_sum(rows)
