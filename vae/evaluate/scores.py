"""Estimate log p(x) of many images, and cache the results in a file."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from vae.acceleration.compilation import MIN_DRAWS, CompiledDraws, try_compile
from vae.config.section import Compile
from vae.errors import UserError
from vae.model.estimator import BATCH_SIZE, Scores, chunk_size, importance_sample, score_terms
from vae.model.vae import VAE
from vae.runs.atomic_files import atomic_path


def compiled_draws(vae: VAE, x: Tensor, K: int) -> CompiledDraws:
    """Compile the sampler of `importance_sample` for full chunks of images shaped like x.

    The compiled function keeps the present weights, but not the labels that `vae` is given.
    """
    return CompiledDraws(lambda x, k, *y: score_terms(vae.given(*y).terms(x, k)), x, chunk_size(vae, x, K), *vae.y)


def read_cached_scores(file: Path, source: str) -> Tensor:
    """Return the scores in a file of `cached_scores`, (3, N); (3, 0) if they have another source.

    Raises UserError if the file is damaged.
    """
    empty = torch.empty(len(Scores._fields), 0)
    if not file.exists():
        return empty
    try:
        with np.load(file) as saved:
            scores = torch.stack([torch.from_numpy(saved[name]) for name in Scores._fields])
            return scores if "source" in saved and str(saved["source"]) == source else empty
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile):
        raise UserError(f"{file} is damaged; delete it to score all images again") from None


@torch.inference_mode()
def cached_scores(
    vae: VAE, x: Tensor, n: int, K: int, seed: int, file: Path, source: str, compiles: Compile, *y: Tensor
) -> Scores:
    """Return `importance_sample` of the first n of images x, (N, C, H, W): each score is (n,), on the CPU.

    `y` are the labels of a conditional model, (N, labels).

    Each batch is written to the npz `file` when it is done, with `source`, which identifies the weights and the images.
    Scores in this file are not computed again. Each batch has its own seed, so the results do not depend on
    interruptions. If `compiles` is True, the sampler is compiled, which changes results by rounding only; with "auto"
    this happens on a CPU if at least MIN_DRAWS samples are left.
    """
    device = next(vae.parameters()).device
    whole = -(-n // BATCH_SIZE) * BATCH_SIZE  # whole batches, even if n ends within one
    batches = vae.batches(BATCH_SIZE, x[:whole], *(label[:whole] for label in y))
    scores = read_cached_scores(file, source)
    compiled, remaining = None, n - scores.shape[1]
    if remaining > 0 and (
        compiles is True or (compiles == "auto" and device.type == "cpu" and remaining * K >= MIN_DRAWS)
    ):
        first = scores.shape[1] // BATCH_SIZE * BATCH_SIZE
        example = next(vae.batches(BATCH_SIZE, x[first:], *(label[first:] for label in y)))
        compiled = try_compile(lambda: compiled_draws(*example, K), compiles)
    with tqdm(desc=f"K = {K}", total=n, dynamic_ncols=True, disable=None) as bar:
        for i, (given, batch) in enumerate(batches):
            if scores.shape[1] < i * BATCH_SIZE + len(batch):
                torch.manual_seed(seed + i)
                new = torch.stack(importance_sample(given, batch, K, compiled=compiled)).cpu()
                scores = torch.cat([scores[:, : i * BATCH_SIZE], new], 1)
                with atomic_path(file) as part, part.open("wb") as half_written:
                    np.savez(half_written, source=source, **dict(zip(Scores._fields, scores.numpy(), strict=True)))
            bar.update(len(batch))
    return Scores(*scores[:, :n])
