"""The LightningModule: training, validation and test steps, logged metrics, and the contents of checkpoints.

The mathematics is in vae/model. Shapes: B images in a batch, (C, H, W) one image, n metrics.
"""

import math
import time
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor

from datamodules.labels import one_hot
from datamodules.loaders import Batches
from datamodules.pixels import RNGPurpose, check_pixels, generator, to_float
from vae.config.older_versions import rename_callbacks
from vae.errors import UserError
from vae.training.metrics import RunningMeans, TestMetrics, TrainingMetrics, divergence_message
from vae.training.optimizer_steps import OptimizerSteps


def images_of(batch: Any) -> Tensor:
    """Return the images of a batch, (B, C, H, W), float in [0, 1]: the batch itself, or the first of its parts.

    Raises UserError for pixels of another type or range.
    """
    images = batch[0] if isinstance(batch, list | tuple) else batch
    return images if images.dtype is torch.float else to_float(check_pixels(images))


class VAEModule(OptimizerSteps):
    """Train `vae` to maximise `objective`. Test it with `K` importance samples for each of `images` images (None: all).

    A conditional model has a number of `labels`: it is trained on pairs of images and labels, whole numbers below
    `labels`. The other arguments are those of OptimizerSteps.
    """

    def __init__(
        self, *, seed: int, log_every_n_steps: int, K: int, images: int | None, labels: int = 0, **of_steps: Any
    ) -> None:
        super().__init__(**of_steps)
        self.seed = seed
        self.log_every_n_steps = log_every_n_steps
        self.K = K
        self.images = images
        self.labels = labels
        self.has_elbo = "elbo" in self.curves
        self.latest_metrics: dict[str, float] = {}
        self.training_metrics = TrainingMetrics(self.metric_names, may_skip=bool(self.skip_gradient_norm))
        self.resume_state: dict[str, Any] = {}

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *_: Any, **__: Any) -> Self:
        """Raise UserError: a checkpoint has no config, so `vae.load` builds the model."""
        raise UserError(f"{checkpoint_path}: a checkpoint holds only weights; call vae.load(FOLDER).module instead")

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

    def on_fit_start(self) -> None:
        if self.resume_state:  # also of a complete training, which does not start again but is tested
            self.training_metrics.restore_run(self.resume_state)

    def on_train_start(self) -> None:
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
    def steps_until_log(self) -> int:
        """Optimizer steps until the next training metrics are logged or the run ends."""
        until_log = self.log_every_n_steps - self.global_step % self.log_every_n_steps
        return max(0, min(until_log, self.total_steps - self.global_step))

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

    def all_reduce_sum(self, sums: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return self.trainer.strategy.reduce(sums, reduce_op="sum")

    def gather_rows(self, row: Tensor) -> Tensor:
        """Gather a tensor, (N,), from every process: (processes, N)."""
        rows = row.new_zeros(self.trainer.world_size, len(row), device=self.device)
        rows[self.global_rank] = row
        return self.all_reduce_sum(rows)
