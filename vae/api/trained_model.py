"""A trained model with the images of its dataset.

Shapes: N images or codes, D latent dimensions, (C, H, W) one image, T interpolation steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from datamodules.base import EVAL_BATCH, ImageDataModule
from vae.errors import UserError
from vae.model.estimator import anomaly_score
from vae.model.interpolation import INTERPOLATIONS
from vae.model.sampling import sample_fitted_mixture, sample_prior
from vae.model.vae import VAE

MAX_TRAIN_CODES = 5000  # training images that are encoded for statistics


@dataclass(frozen=True)
class TrainedModel:
    """The model and the images of a run."""

    vae: VAE
    load_data: Callable[[], ImageDataModule]  # called when the images are needed
    seed: int = 0  # of the statistics of training images and of the mixture

    @cached_property
    def data(self) -> ImageDataModule:
        """The images of the run."""
        return self.load_data()

    @property
    def device(self) -> torch.device:
        return next(self.vae.parameters()).device

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Tensor:
        """Return the means of q(z|x), (N, D)."""
        return torch.cat([self.vae.q_z(batch.to(self.device)).mean for batch in x.split(EVAL_BATCH)])

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        """Return the pictures (..., C, H, W) of codes (..., D), on the CPU."""
        pictures = [self.vae.decode(batch) for batch in z.flatten(0, -2).split(EVAL_BATCH)]
        return torch.cat(pictures).cpu().unflatten(0, z.shape[:-1])

    @cached_property
    def train_codes(self) -> Tensor:
        """Codes of training images, (N, D)."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)  # the mean of a flow is estimated from samples
            return self.encode(self.data.x("train", slice(MAX_TRAIN_CODES)))

    @cached_property
    def dimension_information(self) -> tuple[Tensor, str]:
        """How informative each dimension is, (D,), and the unit.

        This is the mean KL(q(z_d|x) || p(z_d)) over training images, in nats, if posterior and prior factorise over
        dimensions. Otherwise, for example with flows, it is the variance of the means of q(z|x).
        """
        x = self.data.x("train", slice(MAX_TRAIN_CODES)).to(self.device)
        q_z, p_z = self.vae.q_z(x[:1]), self.vae.p_z()
        if not (isinstance(q_z, Independent) and isinstance(p_z, Independent)):
            return self.train_codes.var(0), "variance"
        posteriors: list[Any] = [self.vae.q_z(batch) for batch in x.split(EVAL_BATCH)]
        return torch.cat([kl_divergence(q.base_dist, p_z.base_dist) for q in posteriors]).mean(0), "nats"

    @cached_property
    def aggregate_posterior_stats(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (D,) each, of samples of q(z|x) over training images.

        For dimensions without information these are the moments of the prior.
        """
        z = self.vae.q_z(self.data.x("train", slice(EVAL_BATCH)).to(self.device)).rsample()
        return z.mean(0), z.std(0)

    @torch.inference_mode()
    def sample_codes(self, n: int, temperature: float = 1.0, source: str = "prior") -> Tensor:
        """Sample n codes, (n, D), from the prior or, with source="mixture", from a mixture fitted to training codes."""
        sources: dict[str, Callable[[], Tensor]] = {
            "prior": lambda: sample_prior(self.vae.p_z(), n, temperature),
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
    def interpolate(self, codes: Tensor, t: Tensor | Sequence[float], interpolation: str = "spherical") -> Tensor:
        """Decode what lies between two codes (2, D), at t (T,): (T, C, H, W)."""
        return self.decode(INTERPOLATIONS[interpolation](codes[0], codes[1], torch.as_tensor(t, device=self.device)))

    @torch.inference_mode()
    def log_px(self, x: Tensor, K: int) -> Tensor:
        """Estimate log p(x) of images (N, C, H, W) from K samples each, always the same: (N,), in nats."""
        return -anomaly_score(self.vae, x, "log_px", K)
