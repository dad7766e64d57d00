"""A trained model with the images of its dataset.

Shapes: N images or codes, D latent dimensions, (C, H, W) one image, T interpolation steps. `*y` are the labels of a
conditional model, one-hot (N, labels), and nothing for others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import EVAL_BATCH, ImageDataModule
from datamodules.labels import one_hot
from vae.errors import UserError, did_you_mean
from vae.model.estimator import anomaly_score
from vae.model.interpolation import INTERPOLATIONS, linear
from vae.model.sampling import labels_in_turn, sample_fitted_mixture, sample_prior, seeded
from vae.model.vae import VAE, kl_per_unit

MAX_TRAIN_CODES = 5000  # training images that are encoded for statistics
FUSION_CANDIDATES = 16  # pictures to choose that of a fusion from, if their pixels are sampled


@dataclass(frozen=True)
class TrainedModel:
    """The model and the images of a run."""

    vae: VAE
    load_data: Callable[[], ImageDataModule]  # called when the images are needed
    seed: int = 0  # of the statistics of training images and of the mixture
    label_names: Sequence[str] = ()  # of a conditional model

    @cached_property
    def data(self) -> ImageDataModule:
        """The images of the run."""
        return self.load_data()

    @property
    def fusion_candidates(self) -> int:
        """The default number of pictures from which that of a fusion is chosen."""
        return FUSION_CANDIDATES if self.vae.likelihood.sampled_mean else 1

    @property
    def device(self) -> torch.device:
        return next(self.vae.parameters()).device

    def find_labels(self, key: str, given: Any, n: int) -> tuple[Tensor, ...]:
        """Return the labels that are called `given`: one for all of n images, or n of them, one-hot (n, labels).

        None stands for all labels in turn. Raises UserError if there is no such label, or if their number is not n.
        """
        names = list(self.label_names)
        if given is None:
            return labels_in_turn(len(names), n)
        if not names:
            raise UserError(f"{key}={given}: expected only for a run with conditional=true")
        chosen = [str(label) for label in ([given] if isinstance(given, str | int | np.integer) else given)]
        if len(chosen) not in (1, n):
            raise UserError(f"{key}: expected one label, or one for each of {n}; got {len(chosen)}")
        for label in chosen:
            if label not in names:
                few = f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
                raise UserError(f"{key}={label}: expected one of the labels {few}{did_you_mean(label, names)}")
        return (one_hot(torch.tensor([names.index(label) for label in chosen]), len(names)).expand(n, -1),)

    @torch.inference_mode()
    def encode(self, x: Tensor, *y: Tensor) -> Tensor:
        """Return the means of q(z|x), (N, D)."""
        return torch.cat([vae.q_z(batch).mean for vae, batch in self.vae.batches(EVAL_BATCH, x, *y)])

    @torch.inference_mode()
    def decode(self, z: Tensor, *y: Tensor, candidates: int = 1) -> Tensor:
        """Return the pictures (..., C, H, W) of codes (..., D), on the CPU; labels are (..., labels) or (1, labels).

        If their pixels are sampled, each is chosen from `candidates`, as in `VAE.decode`. Raises UserError for more
        than one if they are not.
        """
        if candidates > 1 and not self.vae.likelihood.sampled_mean:
            raise UserError(f"candidates={candidates}: expected 1, because the pixels of this run are not sampled")
        flat = (values.flatten(0, -2) for values in (z, *y))
        pictures = [vae.decode(batch, candidates) for vae, batch in self.vae.batches(EVAL_BATCH, *flat)]
        return torch.cat(pictures).cpu().unflatten(0, z.shape[:-1])

    @torch.inference_mode()
    def draft(self, z: Tensor, previous: Tensor, *y: Tensor) -> Tensor:
        """Return approximate pictures (N, C, H, W) of codes (N, D), given those of other codes close to them."""
        z, previous, *labels = (values.to(self.device) for values in (z, previous, *y))
        return self.vae.given(*labels).draft(z, previous).cpu()

    @cached_property
    def train_codes(self) -> Tensor:
        """Codes of training images, (N, D)."""
        with seeded(self.seed):  # the mean of a flow is estimated from samples
            rows = slice(MAX_TRAIN_CODES)
            return self.encode(self.data.x("train", rows), *self.data.y("train", rows))

    @cached_property
    def dimension_information(self) -> tuple[Tensor, str]:
        """How informative each dimension is, (D,), and the unit.

        This is the mean KL(q(z_d|x) || p(z_d)) over training images, in nats, if posterior and prior factorise over
        dimensions. Otherwise, for example with flows, it is the variance of the means of q(z|x).
        """
        rows = slice(MAX_TRAIN_CODES)
        divergences = []
        for vae, x in self.vae.batches(EVAL_BATCH, self.data.x("train", rows), *self.data.y("train", rows)):
            per_unit = kl_per_unit(vae.q_z(x), vae.p_z())
            if per_unit is None:
                return self.train_codes.var(0), "variance"
            divergences.append(per_unit)
        return torch.cat(divergences).mean(0), "nats"

    @cached_property
    def aggregate_posterior_stats(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (D,) each, of samples of q(z|x) over training images.

        For dimensions without information these are the moments of the prior.
        """
        rows = slice(EVAL_BATCH)
        vae, x = next(self.vae.batches(EVAL_BATCH, self.data.x("train", rows), *self.data.y("train", rows)))
        with seeded(self.seed):
            z = vae.q_z(x).rsample()
        return z.mean(0), z.std(0)

    @torch.inference_mode()
    def sample_codes(self, n: int, temperature: float = 1.0, source: str = "prior", *y: Tensor) -> Tensor:
        """Sample n codes, (n, D), from the prior or, with source="mixture", from a mixture fitted to training codes."""
        given = self.vae.given(*(label.to(self.device) for label in y))
        sources: dict[str, Callable[[], Tensor]] = {
            "prior": lambda: sample_prior(given.p_z(), n, temperature),
            "mixture": lambda: sample_fitted_mixture(self.train_codes, n, temperature, self.seed),
        }
        return sources[source]()

    def as_codes(self, z: Any, latent_dim: int) -> Tensor:
        """Convert an array or tensor to codes (N, D). Raises UserError if it has another shape."""
        try:
            codes = torch.as_tensor(z, dtype=torch.float, device=self.device)
        except (TypeError, ValueError):
            raise UserError(f"z: expected an array of shape (N, {latent_dim}); got {type(z).__name__}") from None
        if codes.dim() not in (1, 2) or codes.shape[-1] != latent_dim:
            raise UserError(f"z: expected an array of shape (N, {latent_dim}); got {tuple(codes.shape)}")
        return codes.reshape(-1, latent_dim)

    @torch.inference_mode()
    def interpolate(
        self,
        codes: Tensor,
        t: Tensor | Sequence[float],
        interpolation: str = "spherical",
        *y: Tensor,
        candidates: int = 1,
    ) -> Tensor:
        """Decode what lies between two codes (2, D), at t (T,): (T, C, H, W). Labels (2, labels) change linearly."""
        t = torch.as_tensor(t, device=self.device)
        labels = (linear(first, second, t) for first, second in (label.to(self.device) for label in y))
        return self.decode(INTERPOLATIONS[interpolation](codes[0], codes[1], t), *labels, candidates=candidates)

    @torch.inference_mode()
    def log_px(self, x: Tensor, K: int, *y: Tensor) -> Tensor:
        """Estimate log p(x) of images (N, C, H, W) from K samples each, always the same: (N,), in nats."""
        return -anomaly_score(self.vae, x, "log_px", K, *y)
