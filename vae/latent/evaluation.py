"""Evaluate the codes of a split: clusters and classifiers against labels, single dimensions against known factors."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from datamodules.base import ImageDataModule
from vae.errors import UserError
from vae.latent import probes
from vae.latent.disentanglement import disentanglement
from vae.model.vae import VAE

BATCH_SIZE = 500
MAX_CLUSTERED = 10_000  # images that are clustered
MIN_IMAGES_PER_CLASS = 5  # with fewer on average, labels are not treated as classes


class Codes(NamedTuple):
    """q(z|x) of N images: the mean, (N, D), and for a diagonal Gaussian the log-variance, (N, D)."""

    mean: Tensor
    log_var: Tensor | None


def encode(vae: VAE, x: Tensor, *y: Tensor) -> Codes:
    """Encode images x, (N, C, H, W), with labels y in a conditional model. The codes are on the CPU."""
    torch.manual_seed(0)  # the mean of a flow is estimated from samples
    q_z = [given.q_z(batch) for given, batch in vae.batches(BATCH_SIZE, x, *y)]
    mean = torch.cat([q.mean for q in q_z]).cpu()
    if not hasattr(q_z[0], "log_var"):
        return Codes(mean, None)
    return Codes(mean, torch.cat([q.log_var for q in q_z]).cpu())  # type: ignore[attr-defined]


def random_rows(n: int, max_rows: int) -> Tensor:
    """Draw at most `max_rows` of the rows 0 to n - 1 with a fixed seed, in increasing order."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:max_rows].sort().values


def class_labels(data: ImageDataModule, split: str) -> Tensor | None:
    """Return the labels of a split if they are classes with several images each, else None."""
    labels, train_labels = data.images[split].labels, data.images["train"].labels
    if labels is None or train_labels is None or len(labels) < MIN_IMAGES_PER_CLASS * len(labels.unique()):
        return None
    return labels if len(labels.unique()) > 1 else None


def evaluate_codes(
    vae: VAE,
    data: ImageDataModule,
    codes: Codes,
    labels: Tensor,
    split: str,
    clusters: str,
    k: int | None,
    n_fitted: int,
) -> dict[str, Any]:
    """Cluster the codes of a split and fit classifiers to those of `n_fitted` training images.

    The same is done for pixels and their PCA. Returns the contents of latent.json. Raises UserError if k or images does
    not suit the data.
    """
    train, test = data.images["train"], data.images["test"]
    fitted, rows = random_rows(len(train.pixels), n_fitted), random_rows(len(labels), MAX_CLUSTERED)
    k = k or len(labels.unique())
    if k > len(rows):
        raise UserError(f"k={k}: expected 2 to {len(rows)}, or null for the number of labels")
    assert train.labels is not None
    assert test.labels is not None
    if len(train.labels[fitted].unique()) < 2:
        raise UserError(f"images={n_fitted}: these have one label; expected a larger number, up to {len(train.pixels)}")
    images = data.x("train", fitted), data.x("test"), data.x(split, rows)
    pixels: list[np.ndarray] = [x.flatten(1).numpy() for x in images]
    given_labels = data.y("train", fitted), data.y("test")
    means = [encode(vae, x, *y).mean.numpy() for x, y in zip(images, given_labels, strict=False)]
    means.append(codes.mean[rows].numpy())
    features = {"codes": means, "pixels": pixels}
    features["principal components"] = probes.principal_components(pixels[0], codes.mean.shape[1], *pixels[1:])
    results: dict[str, Any] = {}
    for name, (x_train, x_test, x_clustered) in tqdm(features.items(), "clusters, probes", leave=False, disable=None):
        found = probes.cluster(x_clustered, k, clusters)
        results[name] = {
            "features": x_train.shape[1],
            **probes.cluster_agreement(labels[rows].numpy(), found),
            **probes.probe_accuracies(x_train, train.labels[fitted].numpy(), x_test, test.labels.numpy()),
        }
    counts = {"clustered": len(rows), "fitted": len(fitted), "tested": len(test.pixels)}
    names = list(map(test.label_name, labels.unique().tolist()))
    how = {"split": split, "clusters": clusters, "k": k, "conditional": data.conditional}
    return {**how, "labels": names, "images": counts, "found": results}


def evaluate_dimensions(
    vae: VAE, data: ImageDataModule, codes: Codes, factors: Mapping[str, Tensor], split: str, n_fitted: int
) -> dict[str, Any]:
    """Measure how well dimensions of the codes of a split, and of their PCA, stand for the known factors of the images.

    Returns the contents of latent.json under `factors`.
    """
    train = data.images["train"]
    fitted = random_rows(len(train.pixels), n_fitted)
    known = {name: values.numpy() for name, values in factors.items()}
    known_train = {name: values.numpy() for name, values in (train.select(fitted).factors or {}).items()}
    x_train, x = data.x("train", fitted), data.x(split)
    train_codes = encode(vae, x_train, *data.y("train", fitted)).mean.numpy()
    pixels = x_train.flatten(1).numpy(), x.flatten(1).numpy()
    features = {"codes": [train_codes, codes.mean.numpy()]}
    features["principal components"] = probes.principal_components(pixels[0], codes.mean.shape[1], pixels[1])
    found = {
        name: {"features": ours.shape[1], **disentanglement(ours, known, fitted_to, known_train)}
        for name, (fitted_to, ours) in features.items()
    }
    counts = {"fitted": len(fitted), "tested": len(x)}
    return {"split": split, "names": list(known), "images": counts, "found": found}
