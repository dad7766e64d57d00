"""What is measured of a model: means over images, and what its test finds."""

import sys
from collections.abc import Iterable

import torch
from torch import Tensor

from vae.estimator import active_units, importance_sample, summary
from vae.model import VAE
from vae.resemblance import colour_distance, silhouette_iou


class Means:
    """Averages over images of `names`; the sums, (n,), stay where they are until they are read."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self.sums: Tensor | float = 0.0
        self.images = 0

    def add(self, sums: Tensor, images: int) -> None:
        self.sums = self.sums + sums
        self.images += images

    def read(self, split: str) -> dict[str, float]:
        means = (torch.as_tensor(self.sums) / self.images).tolist()
        return {f"{split}/{name}": mean for name, mean in zip(self.names, means, strict=True)}


class Tested:
    """What a test finds of `vae` on the images it is given: the means of `curves`, and of squared errors and codes.

    `curves` are the terms, by the names they are recorded under; `mean_image`, (C, H, W), is that of the training
    images. Unless K is 0, log p(x) of the first `images` (None: all) from K importance samples.
    """

    def __init__(self, vae: VAE, curves: dict[str, str], mean_image: Tensor, K: int, images: int | None) -> None:
        self.vae, self.terms, self.mean_image, self.K = vae, list(curves.values()), mean_image, K
        self.left = (sys.maxsize if images is None else images) if K else 0
        self.means = Means(curves)
        self.log_px: list[Tensor] = []
        self.codes: list[Tensor] = []  # the means of q(z|x), (B, D)
        self.errors: list[Tensor] = []  # (2, B)
        self.resemblance: list[Tensor] = []  # (2, B), of images in colour

    def add(self, x: Tensor) -> None:
        """Of images x, (B, C, H, W)."""
        terms = self.vae.terms(x)
        self.means.add(torch.stack([getattr(terms, term).sum() for term in self.terms]), len(x))
        self.codes.append(terms.q_z.mean)
        shown = torch.stack([self.vae.p_x(self.codes[-1]).mean, self.mean_image.expand_as(x)])
        self.errors.append((shown - x).square().sum((-3, -2, -1)))
        if x.shape[1] == 3:
            picture = self.vae.picture(self.codes[-1])
            self.resemblance.append(torch.stack([silhouette_iou(x, picture), colour_distance(x, picture)]))
        if self.left > 0:
            self.log_px.append(importance_sample(self.vae, x[: self.left], self.K).log_px)
            self.left -= len(x)

    def read(self) -> dict[str, float]:
        """Everything, by the name it is recorded under."""
        reconstruction, baseline = torch.cat(self.errors, 1).mean(1).tolist()
        values = self.means.read("test") | {
            "test/active_units": active_units(torch.cat(self.codes)),
            "test/squared_error": reconstruction,
            "test/squared_error_of_mean_image": baseline,
        }
        if self.resemblance:
            iou, distance = torch.cat(self.resemblance, 1).mean(1).tolist()
            values |= {"test/silhouette_iou": iou, "test/colour_distance": distance}
        if self.log_px:
            scored = summary(torch.cat(self.log_px), self.vae, self.mean_image.numel())
            values |= {f"test/{name}": value for name, value in scored.items()}
        return values
