"""The two halves of a model as functions of one tensor, without random numbers: what an export consists of.

Shapes: S samples, B images, D latent dimensions, (C, H, W) one image.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from vae.autoregressive import AutoregressiveLikelihood
from vae.config import UserError
from vae.flows import Step
from vae.model import VAE
from vae.posteriors import Certain, DiagonalNormal, Flowed


class Encoder(nn.Module):
    """x (B, C, H, W) -> the mean of q(z|x) and, of a diagonal Gaussian, its log-variance, both (B, D).

    The mean of a flow is that of `Flowed.SAMPLES` samples whose noise, (S, 1, D), is drawn here, once.
    """

    noise: Tensor

    def __init__(self, vae: VAE, latent_dim: int) -> None:
        super().__init__()
        self.vae = vae
        rng = torch.Generator().manual_seed(0)
        noise = torch.randn(Flowed.SAMPLES, 1, latent_dim, generator=rng)
        self.register_buffer("noise", noise - noise.mean(0))
        posterior: Any = vae.posterior
        q_z = posterior(torch.zeros(1, posterior.outputs))
        if not isinstance(q_z, (DiagonalNormal, Flowed, Certain)):
            raise UserError(f"posterior: {type(posterior).__name__} has no code that can be exported")
        self.has_log_var = isinstance(q_z, DiagonalNormal)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        q_z = self.vae.q_z(x)
        if isinstance(q_z, DiagonalNormal):
            return q_z.mean, q_z.log_var
        if not isinstance(q_z, Flowed):
            return (q_z.mean,)
        base = q_z.base_dist
        z = base.mean + self.noise * base.stddev
        for step in q_z.transforms:
            z, _ = cast(Step, step).moved(z)
        return (z.mean(0),)


class Decoder(nn.Module):
    """z (B, D) -> the picture of p(x|z), (B, C, H, W), and h, (B, maps, H, W), which the likelihood is made of.

    Where pixels depend on those before them, `paints`, h alone: a painting is many steps, of `Pixels`.
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae
        self.paints = isinstance(vae.likelihood, AutoregressiveLikelihood)
        self.eval()

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        h = self.vae.decoder(z)
        return (h,) if self.paints else (self.vae.likelihood.picture(self.vae.likelihood(h)), h)


class Pixels(nn.Module):
    """x (B, C, H, W) and h (B, maps, H, W) -> what an autoregressive likelihood says of each pixel, given those before.

    That is the outputs of its network, (B, outputs, H, W), and what it says of the whole image, if anything.
    """

    def __init__(self, likelihood: AutoregressiveLikelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.eval()

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return self.likelihood.network(self.likelihood.seen(x), h), *(self.likelihood.given(h) or ())
