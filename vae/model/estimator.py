"""What a trained model is worth: log p(x) by importance sampling, and the latent units that carry something."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from vae.model.vae import VAE, Terms

BATCH = 100  # images at a time, and between two writes, of what is kept
PIXELS = 2**21  # decoded at a time, where not told otherwise: what stays in a CPU's cache
PIXELS_ON_GPU = 2**27  # what keeps a GPU busy; 2 GB with all that is computed of them
MAPS = 2**28  # at most so many numbers of the decoder at a time: 1 GB


class Scores(NamedTuple):
    """Of each of B images, (B,), in nats."""

    log_px: Tensor  # log 1/K sum_k w_k
    rate: Tensor  # KL(q(z|x) || p(z))
    distortion: Tensor  # -E_q[log p(x|z)] (Alemi et al. 2018)


def score_terms(terms: Terms) -> Tensor:
    """log sum_k w_k, KL(q(z|x) || p(z)) and -E_q[log p(x|z)], of K samples of each of B images: (3, B)."""
    return torch.stack([terms.log_w.logsumexp(0), terms.kl, -terms.log_likelihood])


def chunk_size(vae: VAE, x: Tensor, K: int, pixels: int | None = None) -> int:
    """How many of K samples of each of images x to draw together, for at most `pixels` decoded pixels."""
    pixels = pixels or (PIXELS_ON_GPU if x.is_cuda else PIXELS)
    numbers = vae.likelihood.maps(x.shape[1]) * x[:, 0].numel()
    return max(1, min(K, pixels // x.numel(), MAPS // numbers))


class Draws(Protocol):
    """A faster way to draw and score chunks of samples, of one shape."""

    shape: tuple[int, ...]  # (samples in a chunk, B, C, H, W)

    def of(self, x: Tensor) -> Callable[[], Tensor]:
        """A function that draws a chunk for images x and scores it, as `score_terms` does."""


def importance_sample(vae: VAE, x: Tensor, K: int, pixels: int | None = None, compiled: Draws | None = None) -> Scores:
    """log 1/K sum_k w_k, z_k ~ q(z|x): a lower bound on log p(x) that rises with K (Burda et al. 2016).

    x is (B, C, H, W). Exactly K samples are drawn for each image, in chunks of at most `pixels` decoded pixels at a
    time (None: as many as suit the device); rate and distortion are means over the same samples. `compiled` draws the
    chunks that have its shape.
    """
    chunk = chunk_size(vae, x, K, pixels)
    q_z, p_z = vae.q_z(x), vae.p_z()
    whole = compiled.of(x) if compiled and compiled.shape == (chunk, *x.shape) else None
    draws = [min(chunk, K - k) for k in range(0, K, chunk)]
    found = [whole() if whole and k == chunk else score_terms(vae.sample_terms(x, q_z, p_z, k)) for k in draws]
    log_w, rate, distortion = torch.stack(found, 1)
    part = torch.tensor(draws, device=x.device)[:, None] / K
    return Scores(log_w.logsumexp(0) - math.log(K), (part * rate).sum(0), (part * distortion).sum(0))


def anomaly_score(vae: VAE, x: Tensor, score: str, K: int) -> Tensor:
    """The higher, the stranger, (N,), on the CPU, for images x, (N, C, H, W).

    By the score "log_px", -log p(x) in nats from K samples; by "reconstruction", the squared error of E[x|z] at the
    mean of q(z|x). The same for the same images: each call draws the same random numbers.
    """
    device = next(vae.parameters()).device
    scores = {
        "log_px": lambda x: -importance_sample(vae, x, K).log_px,
        "reconstruction": lambda x: (vae.p_x(vae.q_z(x).mean).mean - x).square().sum((1, 2, 3)),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batches = tqdm(x.split(BATCH), score, leave=False, delay=1, disable=None)
        return torch.cat([scores[score](batch.to(device)) for batch in batches]).cpu()


def active_units(means: Tensor) -> int:
    """How many u have Cov_x(E_q[u|x]) > 0.01 (Burda et al. 2016); means of q(z|x) for N images, (N, D)."""
    return int((means.var(0) > 0.01).sum())


def summary(log_px: Tensor, vae: VAE, dimensions: int) -> dict[str, float]:
    """The mean of log p(x) of N images, (N,), its standard error and, of a discrete likelihood, bits per dimension."""
    mean = log_px.mean().item()
    values = {"log_px": mean, "log_px_se": log_px.std().item() / len(log_px) ** 0.5}
    if vae.likelihood.support.is_discrete:
        values["bits_per_dim"] = -mean / (dimensions * math.log(2))
    return values
