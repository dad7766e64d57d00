"""Semi-supervised learning: model M2 of Kingma et al. (2014), in which most training images have no label.

Shapes: B images, Y labels; y is (B, Y), one-hot, or a row of zeros where the label is missing.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.loaders import LABELLED_EVERY
from vae.model.objectives import Objective
from vae.model.vae import VAE, Terms


@dataclass(frozen=True)
class LabelTerms:
    """The terms of B images with each of Y labels.

    The terms that are logged are those given y. Where y is missing, they are means over q(y|x).
    """

    given_y: Terms  # of B Y images: row i B + b is image b with label i
    log_qy_x: Tensor  # log q(y|x), (B, Y)
    y: Tensor  # (B, Y)
    labelled: float  # fraction of the training images that have a label
    training: bool  # otherwise, every image has a label, which only metrics use

    @property
    def share(self) -> float:
        """The fraction of images with a label in the batches: in training, some are repeated (`EpochLoader`)."""
        return (1 + (LABELLED_EVERY - 1) * self.labelled) / LABELLED_EVERY if self.training else 1.0

    def mean_over_labels(self, values: Tensor) -> Tensor:
        """Return the values (B Y,) given y, or their means over q(y|x), as (B,)."""
        missing = 1 - self.y.sum(1, keepdim=True)
        return ((self.y + missing * self.log_qy_x.exp()) * self.table(values)).sum(1)

    def table(self, values: Tensor) -> Tensor:
        """Return the values of `given_y`, (B Y,), as (B, Y)."""
        return values.unflatten(0, (-1, len(self.y))).T

    @property
    def log_likelihood(self) -> Tensor:
        return self.mean_over_labels(self.given_y.log_likelihood)

    @property
    def kl(self) -> Tensor:
        return self.mean_over_labels(self.given_y.kl)

    @property
    def elbo(self) -> Tensor:
        return self.mean_over_labels(self.given_y.elbo)

    @property
    def error(self) -> Tensor:
        """1 for an image whose label is not the most probable one, (B,); so scaled that its mean is of labelled images.

        It is 0 where y is missing.
        """
        wrong = self.log_qy_x.argmax(1) != self.y.argmax(1)
        return wrong * self.y.sum(1) / self.share

    @property
    def log_pxy(self) -> Tensor:
        """A bound on log p(x, y) for each label y, (B, Y); p(y) is uniform (eq. 6)."""
        return self.table(self.given_y.elbo) - math.log(self.y.shape[1])

    @property
    def log_px(self) -> Tensor:
        """The bound on log p(x), (B,): the mean of `log_pxy` over q(y|x), and the entropy of q(y|x) (eq. 7)."""
        return (self.log_qy_x.exp() * (self.log_pxy - self.log_qy_x)).sum(1)


@dataclass
class M2(Objective):
    """The bound on log p(x, y) or log p(x), and `alpha` times the mean of log q(y|x) over the labelled images (eq. 9).

    `labelled` training images have a label. The weights of images undo the repetition of these in the batches. Alpha is
    that of the paper divided by the number of training images. In validation, no label is used.
    """

    alpha: float
    labelled: int
    details: ClassVar[tuple[str, ...]] = ("error",)

    def terms(self, vae: VAE, x: Tensor, N: int) -> Any:
        (y,) = vae.y
        every = torch.eye(y.shape[1], device=y.device).repeat_interleave(len(x), 0)
        given_y = vae.given(every).terms(x.repeat(y.shape[1], 1, 1, 1), self.K)
        return LabelTerms(given_y, vae.log_qy_x(x), y, self.labelled / N, vae.training)

    def __call__(self, terms: Any, _weight: float | Tensor) -> Tensor:
        if not terms.training:
            return terms.log_px
        labelled = (terms.labelled * terms.log_pxy + self.alpha * terms.log_qy_x) / terms.share
        others = LABELLED_EVERY / (LABELLED_EVERY - 1) * terms.log_px
        return torch.where(terms.y.any(1), (terms.y * labelled).sum(1), others)
