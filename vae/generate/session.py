"""A finished run at work: its images in, pictures out. N images or codes, D latent dimensions, (C, H, W) one image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from datamodules.base import EVAL_BATCH, ImageDataModule
from vae.generate.image_selection import SelectedImages
from vae.generate.interpolation import WAYS
from vae.model.sampling import sample_fitted_mixture, sample_prior
from vae.model.vae import VAE

KNOWN = 5000  # training images whose codes are looked at


@dataclass(frozen=True)
class Session:
    """A run's model and images, and what was typed."""

    vae: VAE
    data: ImageDataModule
    n: int | None = None
    temperature: float = 1.0
    source: str = "prior"
    way: str = "spherical"
    images: Sequence[str | int] = ()
    fuse: Sequence[str | int] = ()
    arithmetic: Sequence[str | int] = ()
    dimensions: Sequence[int] = ()
    seed: int = 0

    @property
    def device(self) -> torch.device:
        return next(self.vae.parameters()).device

    def codes(self, x: Tensor) -> Tensor:
        """The means of q(z|x), (N, D)."""
        return torch.cat([self.vae.q_z(part.to(self.device)).mean for part in x.split(EVAL_BATCH)])

    def pictures(self, z: Tensor) -> Tensor:
        """What codes (..., D) look like, (..., C, H, W)."""
        shown = [self.vae.decode(part) for part in z.flatten(0, -2).split(EVAL_BATCH)]
        return torch.cat(shown).cpu().unflatten(0, z.shape[:-1])

    @cached_property
    def known(self) -> Tensor:
        """Codes of training images, (N, D)."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return self.codes(self.data.x("train", slice(KNOWN)))

    @cached_property
    def carried(self) -> tuple[Tensor, str]:
        """How much each dimension carries, (D,), and in what: its KL(q(z|x) || p(z)), in nats, if it has one.

        If not, as with flows, the variance of the means of q(z|x).
        """
        x = self.data.x("train", slice(KNOWN)).to(self.device)
        q_z, p_z = self.vae.q_z(x[:1]), self.vae.p_z()
        if not (isinstance(q_z, Independent) and isinstance(p_z, Independent)):
            return self.known.var(0), "variance"
        parts: list[Any] = [self.vae.q_z(part) for part in x.split(EVAL_BATCH)]
        return torch.cat([kl_divergence(part.base_dist, p_z.base_dist) for part in parts]).mean(0), "nats"

    @cached_property
    def spread(self) -> tuple[Tensor, Tensor]:
        """Of codes drawn from q(z|x), each dimension's mean and standard deviation, (D,) and (D,).

        All dimensions that carry nothing have the same: those of the prior.
        """
        z = self.vae.q_z(self.data.x("train", slice(EVAL_BATCH)).to(self.device)).rsample()
        return z.mean(0), z.std(0)

    def drawn(self, n: int) -> Tensor:
        """n codes of the prior or of the mixture, (n, D)."""
        sources: dict[str, Callable[[], Tensor]] = {
            "prior": lambda: sample_prior(self.vae.p_z(), n, self.temperature),
            "mixture": lambda: sample_fitted_mixture(self.known, n, self.temperature, self.seed),
        }
        return sources[self.source]()

    def between(self, pair: SelectedImages, t: Tensor) -> Tensor:
        """Pictures on the way from the first code to the second, (T, C, H, W)."""
        first, second = self.codes(pair.x)
        return self.pictures(WAYS[self.way](first, second, t.to(self.device)))
