"""Encoder and decoder as deterministic modules, for export to ONNX. Those of a conditional model also take labels y.

Shapes: S samples, B images, D latent dimensions, (C, H, W) one image, y (B, labels) one-hot.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from vae.errors import UserError
from vae.model.autoregressive import AutoregressiveLikelihood
from vae.model.flows import FlowStep
from vae.model.ladder import Ladder
from vae.model.posteriors import Delta, DiagonalNormal, FlowDistribution
from vae.model.vae import VAE


class Encoder(nn.Module):
    """Map x (B, C, H, W) to the mean of q(z|x) and, for a diagonal Gaussian, its log-variance, both (B, D).

    The mean of a flow is estimated from `FlowDistribution.SAMPLES` samples. Their noise, (S, 1, D), is fixed when the
    module is created. Raises UserError for a posterior that has no such mean.
    """

    noise: Tensor

    def __init__(self, vae: VAE, latent_dim: int) -> None:
        super().__init__()
        self.vae = vae
        rng = torch.Generator().manual_seed(0)
        noise = torch.randn(FlowDistribution.MEAN_SAMPLES, 1, latent_dim, generator=rng)
        self.register_buffer("noise", noise - noise.mean(0))
        posterior: Any = vae.posterior
        q_z = None if isinstance(posterior, Ladder) else posterior(torch.zeros(1, posterior.outputs))
        if not isinstance(q_z, (DiagonalNormal, FlowDistribution, Delta, type(None))):
            raise UserError(f"posterior: {type(posterior).__name__} cannot be exported")
        self.has_log_var = isinstance(q_z, DiagonalNormal)
        self.eval()

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, ...]:
        q_z = self.vae.q(x) if y is None else self.vae.q(x, y)
        if isinstance(q_z, DiagonalNormal):
            return q_z.mean, q_z.log_var
        if not isinstance(q_z, FlowDistribution):
            return (q_z.mean,)
        base = q_z.base_dist
        z = base.mean + self.noise * base.stddev
        for step in q_z.transforms:
            z, _ = cast(FlowStep, step).forward_and_log_det(z)
        return (z.mean(0),)


class Decoder(nn.Module):
    """Map z (B, D) to the picture of p(x|z), (B, C, H, W), and the likelihood's parameters h, (B, h_channels, H, W).

    For an autoregressive likelihood, it returns h alone: a picture takes many steps of `PixelParameters`.
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae
        self.autoregressive = isinstance(vae.likelihood, AutoregressiveLikelihood)
        self.eval()

    def forward(self, z: Tensor, y: Tensor | None = None) -> tuple[Tensor, ...]:
        h = self.vae.decoder(z) if y is None else self.vae.decoder(z, y)
        if self.autoregressive:
            return (h,)
        return self.vae.likelihood.display_image(self.vae.likelihood(h)), h


class PixelParameters(nn.Module):
    """Map x (B, C, H, W) and h (B, h_channels, H, W) to the parameters of an autoregressive likelihood.

    These are the outputs of its network for each pixel given those before it, (B, outputs, H, W), and the parameters of
    the whole image, if there are any.
    """

    def __init__(self, likelihood: AutoregressiveLikelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.eval()

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return self.likelihood.network_outputs(x, h), *(self.likelihood.image_parameters(h) or ())
