"""log p(x) of many images, kept in a file as it is computed."""

import os
import sys
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vae.acceleration.compilation import MIN_DRAWS, CompiledDraws, try_compile
from vae.config.schema import Compile
from vae.errors import UserError
from vae.model.estimator import BATCH, Scores, chunk_size, importance_sample, score_terms
from vae.model.vae import VAE


def compiled_draws(vae: VAE, x: Tensor, K: int) -> CompiledDraws:
    """What draws whole chunks of `importance_sample` for images of the shape of x; its weights stay those of now."""
    return CompiledDraws(lambda x, k: score_terms(vae.terms(x, k)), x, chunk_size(vae, x, K))


def read_cached_scores(file: Path, weights: str) -> Tensor:
    """What `cached_scores` wrote of these weights, (3, N); (3, 0) if nothing. UserError if the file cannot be read."""
    nothing = torch.empty(len(Scores._fields), 0)
    if not file.exists():
        return nothing
    try:
        with np.load(file) as saved:
            scores = torch.stack([torch.from_numpy(saved[name]) for name in Scores._fields])
            return scores if str(saved["weights"]) == weights else nothing
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile):
        raise UserError(f"{file} is damaged; without it, all images are score_terms again") from None


@torch.inference_mode()
def cached_scores(
    vae: VAE, x: Tensor, n: int, K: int, seed: int, file: Path, weights: str, compiles: Compile
) -> Scores:
    """`importance_sample` of the first n of images x, (N, C, H, W): each (n,), on the CPU.

    They are written to the npz `file` as they come, with `weights`, the fingerprint of the model's. What is there
    already is not computed again; nor would it be any other: every batch has random numbers of its own. With
    `compiles` the draws are one compiled function, the same to rounding; with "auto", on a CPU, if MIN_DRAWS are left.
    """
    device = next(vae.parameters()).device
    batches = x[: -(-n // BATCH) * BATCH].split(BATCH)  # whole ones, also where n ends within one
    kept = read_cached_scores(file, weights)
    half_written = file.with_suffix(f".{os.getpid()}.part")
    compiled, left = None, n - kept.shape[1]
    if left > 0 and (compiles is True or (compiles == "auto" and device.type == "cpu" and left * K >= MIN_DRAWS)):
        x = batches[kept.shape[1] // BATCH].to(device)
        compiled = try_compile(lambda: compiled_draws(vae, x, K), compiles)
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
