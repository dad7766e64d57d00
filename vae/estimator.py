"""What a trained model is worth: log p(x) by importance sampling, and the latent units that carry something."""

import math
import os
import sys
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vae.compiled import DRAWS, CompiledDraws, attempt
from vae.config import Compile, UserError
from vae.model import VAE, Terms

BATCH = 100  # images at a time, and between two writes, of what is kept
PIXELS = 2**21  # decoded at a time, where not told otherwise: what stays in a CPU's cache
PIXELS_ON_GPU = 2**27  # what keeps a GPU busy; 2 GB with all that is computed of them
MAPS = 2**28  # at most so many numbers of the decoder at a time: 1 GB


class Scores(NamedTuple):
    """Of each of B images, (B,), in nats."""

    log_px: Tensor  # log 1/K sum_k w_k
    rate: Tensor  # KL(q(z|x) || p(z))
    distortion: Tensor  # -E_q[log p(x|z)] (Alemi et al. 2018)


def scored(terms: Terms) -> Tensor:
    """log sum_k w_k, KL(q(z|x) || p(z)) and -E_q[log p(x|z)], of K samples of each of B images: (3, B)."""
    return torch.stack([terms.log_w.logsumexp(0), terms.kl, -terms.log_likelihood])


def at_a_time(vae: VAE, x: Tensor, K: int, pixels: int | None = None) -> int:
    """How many of K samples of each of images x to draw together, for at most `pixels` decoded pixels."""
    pixels = pixels or (PIXELS_ON_GPU if x.is_cuda else PIXELS)
    numbers = vae.likelihood.maps(x.shape[1]) * x[:, 0].numel()
    return max(1, min(K, pixels // x.numel(), MAPS // numbers))


def compiled_draws(vae: VAE, x: Tensor, K: int) -> CompiledDraws:
    """What draws whole chunks of `importance_sample` for images of the shape of x; its weights stay those of now."""
    return CompiledDraws(lambda x, k: scored(vae.terms(x, k)), x, at_a_time(vae, x, K))


def importance_sample(
    vae: VAE, x: Tensor, K: int, pixels: int | None = None, compiled: CompiledDraws | None = None
) -> Scores:
    """log 1/K sum_k w_k, z_k ~ q(z|x): a lower bound on log p(x) that rises with K (Burda et al. 2016).

    x is (B, C, H, W). Exactly K samples are drawn for each image, in chunks of at most `pixels` decoded pixels at a
    time (None: as many as suit the device); rate and distortion are means over the same samples. `compiled` draws the
    chunks that have its shape.
    """
    chunk = at_a_time(vae, x, K, pixels)
    q_z, p_z = vae.q_z(x), vae.p_z()
    whole = compiled.of(x) if compiled and compiled.shape == (chunk, *x.shape) else None
    draws = [min(chunk, K - k) for k in range(0, K, chunk)]
    found = [whole() if whole and k == chunk else scored(vae.drawn(x, q_z, p_z, k)) for k in draws]
    log_w, rate, distortion = torch.stack(found, 1)
    part = torch.tensor(draws, device=x.device)[:, None] / K
    return Scores(log_w.logsumexp(0) - math.log(K), (part * rate).sum(0), (part * distortion).sum(0))


def strangeness(vae: VAE, x: Tensor, score: str, K: int) -> Tensor:
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


def read_scores(file: Path, weights: str) -> Tensor:
    """What `kept_scores` wrote of these weights, (3, N); (3, 0) if nothing. UserError if the file cannot be read."""
    nothing = torch.empty(len(Scores._fields), 0)
    if not file.exists():
        return nothing
    try:
        with np.load(file) as saved:
            scores = torch.stack([torch.from_numpy(saved[name]) for name in Scores._fields])
            return scores if str(saved["weights"]) == weights else nothing
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile):
        raise UserError(f"{file} is damaged; without it, all images are scored anew") from None


@torch.inference_mode()
def kept_scores(vae: VAE, x: Tensor, n: int, K: int, seed: int, file: Path, weights: str, compiles: Compile) -> Scores:
    """`importance_sample` of the first n of images x, (N, C, H, W): each (n,), on the CPU.

    They are written to the npz `file` as they come, with `weights`, the fingerprint of the model's. What is there
    already is not computed again; nor would it be any other: every batch has random numbers of its own. With
    `compiles` the draws are one compiled function, the same to rounding; with "auto", on a CPU, if DRAWS are left.
    """
    device = next(vae.parameters()).device
    batches = x[: -(-n // BATCH) * BATCH].split(BATCH)  # whole ones, also where n ends within one
    kept = read_scores(file, weights)
    half_written = file.with_suffix(f".{os.getpid()}.part")
    compiled, left = None, n - kept.shape[1]
    if left > 0 and (compiles is True or (compiles == "auto" and device.type == "cpu" and left * K >= DRAWS)):
        x = batches[kept.shape[1] // BATCH].to(device)
        compiled = attempt(lambda: compiled_draws(vae, x, K), compiles)
    with tqdm(desc=f"K = {K}", total=n, dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:
        for i, batch in enumerate(batches):
            if kept.shape[1] < i * BATCH + len(batch):
                torch.manual_seed(seed + i)
                scores = torch.stack(importance_sample(vae, batch.to(device), K, compiled=compiled)).cpu()
                kept = torch.cat([kept[:, : i * BATCH], scores], 1)
                with half_written.open("wb") as part:
                    np.savez(part, weights=weights, **dict(zip(Scores._fields, kept.numpy(), strict=True)))
                half_written.replace(file)
            bar.update(len(batch))
    return Scores(*kept[:, :n])


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
