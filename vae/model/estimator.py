"""Evaluation of a trained model: log p(x) by importance sampling, anomaly scores and active latent units."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vae.model.vae import VAE, Terms

BATCH_SIZE = 100  # images per batch
ACTIVE_VARIANCE = 0.01  # over images, of the mean of an active latent unit
MAX_PIXELS_CPU = 2**21  # decoded pixels per chunk: these fit in a CPU's cache
MAX_PIXELS_GPU = 2**27  # enough to keep a GPU busy; 2 GB with all intermediate tensors
MAX_H_VALUES = 2**28  # decoder outputs per chunk: 1 GB


class Scores(NamedTuple):
    """Estimates for B images, each (B,), in nats."""

    log_px: Tensor  # log 1/K sum_k w_k
    rate: Tensor  # KL(q(z|x) || p(z))
    distortion: Tensor  # -E_q[log p(x|z)] (Alemi et al. 2018)


def score_terms(terms: Terms) -> Tensor:
    """Return log sum_k w_k, KL(q(z|x) || p(z)) and -E_q[log p(x|z)] of B images, (3, B), from K samples per image."""
    return torch.stack([terms.log_w.logsumexp(0), terms.kl, -terms.log_likelihood])


def chunk_size(vae: VAE, x: Tensor, K: int, max_pixels: int | None = None) -> int:
    """Return how many of K samples per image to draw at once, so that at most `max_pixels` pixels are decoded."""
    max_pixels = max_pixels or (MAX_PIXELS_GPU if x.is_cuda else MAX_PIXELS_CPU)
    h_values = vae.likelihood.h_channels(x.shape[1]) * x[:, 0].numel()
    return max(1, min(K, max_pixels // x.numel(), MAX_H_VALUES // h_values))


class ChunkSampler(Protocol):
    """A faster implementation of sampling and scoring, for chunks of one shape."""

    shape: tuple[int, ...]  # (samples in a chunk, B, C, H, W)

    def bind(self, x: Tensor, *y: Tensor) -> Callable[[], Tensor]:
        """Return a function that samples a chunk for images x with labels y and returns its `score_terms`."""


def importance_sample(
    vae: VAE, x: Tensor, K: int, max_pixels: int | None = None, compiled: ChunkSampler | None = None
) -> Scores:
    """Estimate log p(x) of images x, (B, C, H, W), by log 1/K sum_k w_k with z_k ~ q(z|x).

    In expectation, the estimate is a lower bound that increases with K (Burda et al. 2016). Rate and distortion are
    estimated from the same K samples per image. Samples are drawn in chunks of at most `max_pixels` decoded pixels
    (None: chosen by device). `compiled` samples the chunks that have its shape.
    """
    chunk = chunk_size(vae, x, K, max_pixels)
    q_z, p_z = vae.q_z(x), vae.p_z()
    sample_chunk = compiled.bind(x, *vae.y) if compiled and compiled.shape == (chunk, *x.shape) else None
    sizes = [min(chunk, K - k) for k in range(0, K, chunk)]
    scores = [
        sample_chunk() if sample_chunk and k == chunk else score_terms(vae.sample_terms(x, q_z, p_z, k)) for k in sizes
    ]
    log_w, rate, distortion = torch.stack(scores, 1)
    weights = torch.tensor(sizes, device=x.device)[:, None] / K
    return Scores(log_w.logsumexp(0) - math.log(K), (weights * rate).sum(0), (weights * distortion).sum(0))


def anomaly_score(vae: VAE, x: Tensor, score: str, K: int, *y: Tensor) -> Tensor:
    """Return anomaly scores of images x, (N, C, H, W), as (N,) on the CPU. Higher scores are more anomalous.

    With score="log_px", it is -log p(x) in nats, estimated from K samples. With score="reconstruction", it is the
    squared error of E[x|z] with z the mean of q(z|x). `y` are the labels of a conditional model, (N, labels). The
    random seed is fixed, so repeated calls give the same scores.
    """
    scores = {
        "log_px": lambda vae, x: -importance_sample(vae, x, K).log_px,
        "reconstruction": lambda vae, x: (vae.p_x(vae.q_z(x).mean).mean - x).square().sum((1, 2, 3)),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        n = -(-len(x) // BATCH_SIZE)
        batches = tqdm(vae.batches(BATCH_SIZE, x, *y), score, n, leave=False, delay=1, disable=None)
        return torch.cat([scores[score](*batch) for batch in batches]).cpu()


def active_units(means: Tensor) -> int:
    """Return the number of latent units u with Cov_x(E_q[u|x]) > ACTIVE_VARIANCE (Burda et al. 2016).

    `means` are the means of q(z|x) of N images, (N, D).
    """
    return int((means.var(0) > ACTIVE_VARIANCE).sum())


def summarize(log_px: Tensor, vae: VAE, values: int) -> dict[str, float]:
    """Return the mean of log p(x) over N images, (N,), and its standard error, in nats.

    If the likelihood is discrete, bits per dimension are included; `values` is the number of values of an image.
    """
    mean = log_px.mean().item()
    scores = {"log_px": mean, "log_px_se": log_px.std().item() / len(log_px) ** 0.5}
    if vae.likelihood.support.is_discrete:
        scores["bits_per_dim"] = -mean / (vae.likelihood.dimensions(values) * math.log(2))
    return scores
