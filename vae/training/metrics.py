"""Means of metrics over images, and the metrics of the training and of the test set."""

import math
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from vae.model.estimator import active_units, importance_sample, summarize
from vae.model.vae import VAE
from vae.training.image_similarity import colour_distance, silhouette_iou

MAX_SAMPLED_MEANS = 1000  # test images for squared_error, if the mean of p(x|z) is estimated from samples


class RunningMeans:
    """Means over images of n metrics, `names`. The sums, (n,), stay on their device until `compute` is called.

    Checkpoints store the attributes: keep their names.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self.sums: Tensor | float = 0.0
        self.images = 0

    def update(self, sums: Tensor, images: int) -> None:
        """Add the sums over a number of images, (n,)."""
        self.sums = self.sums + sums
        self.images += images

    def compute(self, split: str) -> dict[str, float]:
        """Return the means as {split/name: mean}."""
        means = (torch.as_tensor(self.sums) / self.images).tolist()
        return {f"{split}/{name}": mean for name, mean in zip(self.names, means, strict=True)}


class TrainingMetrics:
    """Means of the training metrics since the last log; images seen, skipped steps and seconds of the whole run.

    `names` are those of n metrics, of which the last is the objective. With `may_skip`, steps whose objective is NaN
    were skipped.
    """

    def __init__(self, names: Iterable[str], *, may_skip: bool) -> None:
        self.names, self.may_skip = list(names), may_skip
        self.means = RunningMeans(self.names)
        self.pending: list[tuple[Tensor, int]] = []  # sums (n,) and number of images of steps not yet in `means`
        self.images_seen = self.skipped_steps = 0
        self.start_time = time.perf_counter()
        self.previous_seconds = 0.0  # of a resumed run, before it was resumed
        self.start_interval()

    @property
    def seconds(self) -> float:
        """The seconds since the run began."""
        return self.previous_seconds + time.perf_counter() - self.start_time

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "train_means": vars(self.means),
            "images_seen": self.images_seen,
            "skipped_steps": self.skipped_steps,
            "seconds": self.seconds,
        }

    def restore_run(self, state: dict[str, Any]) -> None:
        """Restore the numbers of the whole run from a checkpoint."""
        self.images_seen, self.previous_seconds = state["images_seen"], state["seconds"]
        self.skipped_steps = state.get("skipped_steps", 0)  # older checkpoints lack it

    def restore_means(self, state: dict[str, Any]) -> None:
        """Restore the means since the last log from a checkpoint."""
        vars(self.means).update(state["train_means"])

    def start_interval(self) -> None:
        """Measure the speed from now on."""
        self.interval_start, self.untimed_images = time.perf_counter(), self.means.images

    def exclude(self, seconds: float) -> None:
        """Do not count this time in the speed."""
        self.interval_start += seconds

    def add(self, sums: Iterable[Tensor], images: Iterable[int]) -> None:
        """Add steps: the sums of their metrics, (n,) each, which stay on the device, and their numbers of images."""
        self.pending += zip(sums, images, strict=True)

    def flush(self, all_reduce_sum: Callable[[Tensor], Tensor]) -> tuple[int, dict[str, float]] | None:
        """Add the pending steps to the means, but not those that were skipped.

        If the objective of a step is not finite, this stops there, and returns how many steps followed it, and its
        metrics without the objective.
        """
        if not self.pending:
            return None
        steps, self.pending = self.pending, []
        sums = all_reduce_sum(torch.stack([sums for sums, _ in steps])).cpu()
        images = [images for _, images in steps]
        means = (sums / sums.new_tensor(images)[:, None]).tolist()
        for i, (*logged, objective) in enumerate(means):
            skipped = self.may_skip and math.isnan(objective)
            if not (skipped or math.isfinite(objective)):
                return len(steps) - 1 - i, dict(zip(self.names, logged, strict=False))
            if not skipped:
                self.means.update(sums[i], images[i])
            self.skipped_steps += skipped
            self.images_seen += images[i]
        return None

    def compute(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the means since the last call, if there are any, and the speed and skipped steps; start again."""
        seconds = time.perf_counter() - self.interval_start
        speed = {"images_per_second": (self.means.images - self.untimed_images) / seconds}
        means = self.means.compute("train") if self.means.images else {}
        self.means = RunningMeans(self.names)
        self.start_interval()
        return means, speed | ({"skipped_steps": self.skipped_steps} if self.may_skip else {})


def divergence_message(when: str, means: dict[str, float]) -> str:
    """Return the error message for an objective that is not finite: the term at fault, and the usual remedy."""
    not_finite = [name for name, mean in means.items() if not math.isfinite(mean)]
    # a sum comes before its components, so the last name is a component
    cause = f"{not_finite[-1]} is {means[not_finite[-1]]}" if not_finite else "the objective is not finite"
    return f"training diverged {when}: {cause}; try a lower optimizer.lr, or gradient_clip_val=100"


class TestMetrics:
    """Test metrics: the means of the curves, squared error, active units, and log p(x).

    They include the similarity of colour images and the error of a classifier. `curves` maps metric names to attributes
    of Terms. `mean_image`, (C, H, W), is the mean of the training images; without it, one metric is left out. log p(x)
    is computed with K importance samples for the first `images` images (None: all), or not at all if K is 0.
    """

    def __init__(self, vae: VAE, curves: dict[str, str], mean_image: Tensor | None, K: int, images: int | None) -> None:
        self.vae, self.terms, self.mean_image, self.K = vae, list(curves.values()), mean_image, K
        self.images_remaining = (sys.maxsize if images is None else images) if K else 0
        self.means_remaining = MAX_SAMPLED_MEANS if vae.likelihood.sampled_mean else sys.maxsize
        self.means = RunningMeans(curves)
        self.log_px: list[Tensor] = []  # (B,)
        self.latents: list[Tensor] = []  # the means of q(z|x), (B, D)
        self.squared_errors: list[Tensor] = []  # of the reconstruction, and of mean_image, (1 or 2, B)
        self.similarity: list[Tensor] = []  # silhouette_iou and colour_distance, (2, B)
        self.errors: list[Tensor] = []  # whether a classifier is wrong, (B,)

    def update(self, x: Tensor, *y: Tensor) -> None:
        """Add a batch of images x, (B, C, H, W), with their labels y, (B, labels), in a conditional model."""
        vae = self.vae.given(*y)
        terms = vae.terms(x)
        self.means.update(torch.stack([getattr(terms, term).sum() for term in self.terms]), len(x))
        z = terms.q_z.mean
        self.latents.append(z)
        self.add_squared_errors(x[: self.means_remaining], z[: self.means_remaining], *y)
        self.pixels = x[0].numel()
        if x.shape[1] == 3:
            picture = vae.decode(z)
            self.similarity.append(torch.stack([silhouette_iou(x, picture), colour_distance(x, picture)]))
        if vae.classifier:
            self.errors.append((vae.log_qy_x(x).argmax(1) != y[0].argmax(1)).float())
        if self.images_remaining > 0:
            n = self.images_remaining
            vae = self.vae.given(*(label[:n] for label in y))
            self.log_px.append(importance_sample(vae, x[:n], self.K).log_px)
            self.images_remaining -= len(x)

    def add_squared_errors(self, x: Tensor, z: Tensor, *y: Tensor) -> None:
        """Add the squared errors of images x, (B, C, H, W), and their latents z, (B, D)."""
        if not len(x):
            return
        baselines = [] if self.mean_image is None else [self.mean_image.expand_as(x)]
        predictions = torch.stack([self.vae.given(*(label[: len(x)] for label in y)).p_x(z).mean, *baselines])
        self.squared_errors.append((predictions - x).square().sum((-3, -2, -1)))
        self.means_remaining -= len(x)

    def compute(self) -> dict[str, float]:
        """Return all test metrics by name."""
        errors = torch.cat(self.squared_errors, 1).mean(1).tolist()
        values = self.means.compute("test") | {"test/active_units": active_units(torch.cat(self.latents))}
        values |= dict(zip(("test/squared_error", "test/squared_error_of_mean_image"), errors, strict=False))
        if self.similarity:
            iou, distance = torch.cat(self.similarity, 1).mean(1).tolist()
            values |= {"test/silhouette_iou": iou, "test/colour_distance": distance}
        if self.errors:
            values["test/error"] = torch.cat(self.errors).mean().item()
        if self.log_px:
            scores = summarize(torch.cat(self.log_px), self.vae, self.pixels)
            values |= {f"test/{name}": value for name, value in scores.items()}
        return values
