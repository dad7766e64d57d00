"""What a trained model is worth: log p(x) by importance sampling, and the latent units that carry something."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vae.model import VAE

BATCH = 100  # images at a time, and between two writes, of what is kept


class Scores(NamedTuple):
    """Of each of B images, (B,), in nats."""

    log_px: Tensor  # log 1/K sum_k w_k
    rate: Tensor  # KL(q(z|x) || p(z))
    distortion: Tensor  # -E_q[log p(x|z)] (Alemi et al. 2018)


def importance_sample(vae: VAE, x: Tensor, K: int, pixels: int = 2**23) -> Scores:
    """log 1/K sum_k w_k, z_k ~ q(z|x): a lower bound on log p(x) that rises with K (Burda et al. 2016).

    x is (B, C, H, W). Exactly K samples are drawn for each image, in chunks of at most `pixels` decoded pixels at a
    time; rate and distortion are means over the same samples.
    """
    chunk = max(1, pixels // x.numel())
    draws = [min(chunk, K - k) for k in range(0, K, chunk)]
    log_w, rate, distortion = [], torch.zeros(len(x), device=x.device), torch.zeros(len(x), device=x.device)
    for k in draws:
        terms = vae.terms(x, k)
        log_w.append(terms.log_w.logsumexp(0))
        rate += terms.kl * k / K
        distortion -= terms.log_likelihood * k / K
    return Scores(torch.stack(log_w).logsumexp(0) - math.log(K), rate, distortion)


@torch.inference_mode()
def kept_scores(vae: VAE, x: Callable[[slice], Tensor], n: int, K: int, seed: int, file: Path) -> Scores:
    """`importance_sample` of the n images x(rows), each (n,), on the CPU.

    They are written to the npz `file` as they come. What is there already is not computed again; nor would it be any
    other: every batch has random numbers of its own.
    """
    kept = torch.full((len(Scores._fields), n), math.nan)
    if file.exists():
        with np.load(file) as saved:
            before = torch.stack([torch.from_numpy(saved[name]) for name in Scores._fields])
        kept = torch.cat([before, kept[:, before.shape[1] :]], 1)
    device = next(vae.parameters()).device
    with tqdm(desc=f"K = {K}", total=n, dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:
        for i in range(0, n, BATCH):
            rows = slice(i, min(i + BATCH, n))
            if kept[:, rows].isnan().any():
                torch.manual_seed(seed + i)
                kept[:, rows] = torch.stack(importance_sample(vae, x(rows).to(device), K)).cpu()
                half_written = file.with_suffix(".part")
                with half_written.open("wb") as part:
                    np.savez(part, **dict(zip(Scores._fields, kept.numpy(), strict=True)))
                half_written.replace(file)
            bar.update(rows.stop - i)
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
