"""What a trained model is worth: log p(x) by importance sampling, and the latent units that carry something."""

import math

import torch
from torch import Tensor

from vae.model import VAE


def log_px(vae: VAE, x: Tensor, K: int, pixels: int = 2**23) -> Tensor:
    """log 1/K sum_k w_k, z_k ~ q(z|x): a lower bound on log p(x) that rises with K (Burda et al. 2016).

    x is (B, C, H, W); returns (B,), in nats. Exactly K samples are drawn for each image, in chunks of at most
    `pixels` decoded pixels at a time.
    """
    chunk = max(1, pixels // x.numel())
    draws = [min(chunk, K - k) for k in range(0, K, chunk)]
    return torch.stack([vae.terms(x, k).log_w.logsumexp(0) for k in draws]).logsumexp(0) - math.log(K)


def active_units(means: Tensor) -> int:
    """How many u have Cov_x(E_q[u|x]) > 0.01 (Burda et al. 2016); means of q(z|x) for N images, (N, D)."""
    return int((means.var(0) > 0.01).sum())
