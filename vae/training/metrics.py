"""Means of metrics over images, and the metrics of the test set."""

import sys
from collections.abc import Iterable

import torch
from torch import Tensor

from vae.model.estimator import active_units, importance_sample, summarize
from vae.model.vae import VAE
from vae.training.image_similarity import colour_distance, silhouette_iou


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


MAX_SAMPLED_MEANS = 1000  # test images for squared_error, if the mean of p(x|z) is estimated from samples


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
