"""Analyse the latent codes of a finished run: python -m vae.latent [run=outputs/...] [split=test] [map=umap].

Without run=, the newest finished run in outputs/ is used. The results are written to latent/ in the folder of the run:

  codes.npz        the means of q(z|x), the log-variances of a diagonal Gaussian, labels and their names, classes,
                   known factors
  map.png          the codes in two dimensions, by map=pca or map=umap
  strangest.png    the images with the highest anomaly score, beside their reconstructions. score=log_px estimates
                   -log p(x) with K=50 samples, score=reconstruction is the squared error
  latent.json      how well clusters and simple classifiers of the codes agree with the labels, and how well single
                   dimensions stand for known factors

The first part of latent.json needs labels with several images each. The codes are divided into k clusters by
clusters=kmeans or clusters=mixture (a Gaussian mixture); by default k is the number of labels. Classifiers are fitted
to the codes of images=10000 training images and scored on test images. The same is computed for raw pixels and for as
many principal components. The second part needs a dataset of known factors, as dataset=shapes: MIG, SAP and the
FactorVAE score of the codes of the split, and DCI with random forests fitted to the training images; the same for
principal components. wandb=true logs the codes to the W&B run as a table. dataset.path= says where the images of the
run are now.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from vae.api.run import load
from vae.config.command_line import parse_arguments, run_command
from vae.config.parts import PositiveInt
from vae.errors import UserError
from vae.runs.atomic_files import atomic_directory
from vae.terminal import show

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from datamodules.base import ImageDataModule, Images
    from vae.model.vae import VAE

BATCH_SIZE = 500
MAX_CLUSTERED = 10_000  # images that are clustered
N_ANOMALIES = 50  # images in strangest.png
MIN_IMAGES_PER_CLASS = 5  # with fewer on average, labels are not treated as classes


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field("", description="the folder of a finished run")
    trust: bool = False
    config_dir: str = ""
    data_path: str = Field("", alias="dataset.path", description="where the images of the run are now")
    split: Literal["test", "val", "train"] = "test"
    map: Literal["pca", "umap"] = "pca"
    clusters: Literal["kmeans", "mixture"] = "kmeans"
    k: int | None = Field(None, ge=2, description="a whole number, 2 or more, or null for the number of labels")
    score: Literal["log_px", "reconstruction"] = "log_px"
    K: PositiveInt = 50
    images: int = Field(10_000, ge=2, description="a whole number, 2 or more")
    wandb: bool = Field(False, description="true or false")


class Codes(NamedTuple):
    """q(z|x) of N images: the mean, (N, D), and for a diagonal Gaussian the log-variance, (N, D)."""

    mean: "Tensor"
    log_var: "Tensor | None"


def encode(vae: "VAE", x: "Tensor", *y: "Tensor") -> Codes:
    """Encode images x, (N, C, H, W), with labels y in a conditional model. The codes are on the CPU."""
    import torch

    torch.manual_seed(0)  # the mean of a flow is estimated from samples
    q_z = [given.q_z(batch) for given, batch in vae.batches(BATCH_SIZE, x, *y)]
    mean = torch.cat([q.mean for q in q_z]).cpu()
    if not hasattr(q_z[0], "log_var"):
        return Codes(mean, None)
    return Codes(mean, torch.cat([q.log_var for q in q_z]).cpu())  # type: ignore[attr-defined]


def random_rows(n: int, max_rows: int) -> "Tensor":
    """Draw at most `max_rows` of the rows 0 to n - 1 with a fixed seed, in increasing order."""
    import torch

    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:max_rows].sort().values


def class_labels(data: "ImageDataModule", split: str) -> "Tensor | None":
    """Return the labels of a split if they are classes with several images each, else None."""
    labels, train_labels = data.images[split].labels, data.images["train"].labels
    if labels is None or train_labels is None or len(labels) < MIN_IMAGES_PER_CLASS * len(labels.unique()):
        return None
    return labels if len(labels.unique()) > 1 else None


def evaluate_codes(
    vae: "VAE", data: "ImageDataModule", codes: Codes, labels: "Tensor", given: Arguments
) -> dict[str, Any]:
    """Cluster the codes of a split and fit classifiers to training codes; do the same for pixels and their PCA.

    Returns the contents of latent.json. Raises UserError if k or images does not suit the data.
    """
    from tqdm.auto import tqdm

    from vae.latent import probes

    train, test = data.images["train"], data.images["test"]
    fitted, rows = random_rows(len(train.pixels), given.images), random_rows(len(labels), MAX_CLUSTERED)
    k = given.k or len(labels.unique())
    if k > len(rows):
        raise UserError(f"k={k}: expected 2 to {len(rows)}, or null for the number of labels")
    assert train.labels is not None
    assert test.labels is not None
    if len(train.labels[fitted].unique()) < 2:
        raise UserError(f"images={given.images}: expected more, so that the classifiers see at least two labels")
    images = data.x("train", fitted), data.x("test"), data.x(given.split, rows)
    pixels: list[np.ndarray] = [x.flatten(1).numpy() for x in images]
    given_labels = data.y("train", fitted), data.y("test")
    means = [encode(vae, x, *y).mean.numpy() for x, y in zip(images, given_labels, strict=False)]
    means.append(codes.mean[rows].numpy())
    features = {"codes": means, "pixels": pixels}
    features["principal components"] = probes.principal_components(pixels[0], codes.mean.shape[1], *pixels[1:])
    results: dict[str, Any] = {}
    for name, (x_train, x_test, x_clustered) in tqdm(features.items(), "clusters, probes", leave=False, disable=None):
        clusters = probes.cluster(x_clustered, k, given.clusters)
        results[name] = {
            "features": x_train.shape[1],
            **probes.cluster_agreement(labels[rows].numpy(), clusters),
            **probes.probe_accuracies(x_train, train.labels[fitted].numpy(), x_test, test.labels.numpy()),
        }
    counts = {"clustered": len(rows), "fitted": len(fitted), "tested": len(test.pixels)}
    names = list(map(test.label_name, labels.unique().tolist()))
    how = {"split": given.split, "clusters": given.clusters, "k": k}
    return {**how, "labels": names, "images": counts, "found": results}


def evaluate_dimensions(
    vae: "VAE", data: "ImageDataModule", codes: Codes, factors: "Mapping[str, Tensor]", given: Arguments
) -> dict[str, Any]:
    """Measure how well dimensions of the codes of a split, and of their PCA, stand for the known factors of the images.

    Returns the contents of latent.json under `factors`.
    """
    from vae.latent import probes
    from vae.latent.disentanglement import disentanglement

    train = data.images["train"]
    fitted = random_rows(len(train.pixels), given.images)
    known = {name: values.numpy() for name, values in factors.items()}
    known_train = {name: values.numpy() for name, values in (train.select(fitted).factors or {}).items()}
    x_train, x = data.x("train", fitted), data.x(given.split)
    train_codes = encode(vae, x_train, *data.y("train", fitted)).mean.numpy()
    pixels = x_train.flatten(1).numpy(), x.flatten(1).numpy()
    features = {"codes": [train_codes, codes.mean.numpy()]}
    features["principal components"] = probes.principal_components(pixels[0], codes.mean.shape[1], pixels[1])
    found = {
        name: {"features": ours.shape[1], **disentanglement(ours, known, fitted_to, known_train)}
        for name, (fitted_to, ours) in features.items()
    }
    counts = {"fitted": len(fitted), "tested": len(x)}
    return {"split": given.split, "names": list(known), "images": counts, "found": found}


def format_table(title: str, found: dict[str, dict[str, Any]], names: dict[str, str]) -> str:
    """Format scores as a table with one line per kind of features. `names` maps the scores to titles of columns."""
    lines = [title, " " * 26 + "".join(f"{name:>16}" for name in names.values())]
    for features, row in found.items():
        features_title = f"{features} ({row['features']})"
        lines.append(f"{features_title:<26}" + "".join(f"{row[name]:>16.3f}" for name in names))
    return "\n".join(f"  {line}".rstrip() for line in lines)


def labels_table(results: dict[str, Any]) -> str:
    """Format how well clusters and classifiers of the codes agree with the labels."""
    names = {
        "adjusted_rand": "ARI",
        "nmi": "NMI",
        "matching_accuracy": "matched",
        "linear_probe": "linear probe",
        "nearest_neighbours": "neighbours",
    }
    n = results["images"]
    title = (
        f"{results['clusters']} with k = {results['k']} on {n['clustered']:,} {results['split']} images;"
        f" probes fitted to {n['fitted']:,} training images, tested on {n['tested']:,} test images"
    )
    return format_table(title, results["found"], names)


def factors_table(results: dict[str, Any]) -> str:
    """Format how well dimensions of the codes stand for the factors."""
    names = {
        "mig": "MIG",
        "sap": "SAP",
        "factor_vae": "FactorVAE",
        "disentanglement": "disentanglement",
        "completeness": "completeness",
        "informativeness": "informativeness",
    }
    n = results["images"]
    title = (
        f"known factors, {', '.join(results['names'])}: {n['tested']:,} {results['split']} images;"
        f" forests fitted to {n['fitted']:,} training images"
    )
    return format_table(title, results["found"], names)


def analyse(given: Arguments) -> list[str]:
    """Write the results to latent/ in the folder of a run. Return the lines to print.

    Raises UserError for a request that the run cannot satisfy.
    """
    run = load(given.run, given.trust, given.config_dir, given.data_path)
    folder = run.folder
    from vae.latent import probes

    by_umap = given.map == "umap" and run.config.latent_dim > 2
    if by_umap:
        probes.import_umap()  # fail early if it is missing
    if given.wandb and not (folder / "wandb_id").exists():
        raise UserError(f"wandb=true: expected a run that was logged to W&B; {folder} has no wandb_id")
    import numpy as np
    import torch

    from vae import figures
    from vae.model.estimator import anomaly_score

    data, module = run.data, run.module
    vae, images = run.vae, data.images[given.split]
    x, y, labels = data.x(given.split), data.y(given.split), class_labels(data, given.split)
    lines: list[str] = []
    results: dict[str, Any] = {}
    with torch.inference_mode(), atomic_directory(folder / "latent") as part:
        codes = encode(vae, x, *y)
        if labels is None:
            lines.append(
                f"  no labels, or fewer than {MIN_IMAGES_PER_CLASS} images per label: clusters and probes are skipped"
            )
        else:
            results |= evaluate_codes(vae, data, codes, labels, given)
            lines.append(labels_table(results))
        if images.factors is None:
            lines.append("  no known factors: MIG, SAP, the FactorVAE score and DCI are skipped")
        else:
            results["factors"] = evaluate_dimensions(vae, data, codes, images.factors, given)
            lines.append(factors_table(results["factors"]))
        if results:
            (part / "latent.json").write_text(json.dumps(results, indent=2) + "\n")
        score = given.score if module.has_elbo else "reconstruction"
        scores = anomaly_score(vae, x, score, given.K, *y)
        order = scores.argsort(descending=True)
        score_name = f"-log p(x) in nats, K = {given.K}" if score == "log_px" else "squared error of the reconstruction"
        top = [images.names[i] if images.names else str(i) for i in order[:10].tolist()]
        lines.append(f"  highest anomaly scores, by {score_name}: {', '.join(top)}")
        if data.has_pictures:
            strangest = order[:N_ANOMALIES]
            anomalies = next(vae.batches(N_ANOMALIES, x[strangest], *(label[strangest] for label in y)))
            figures.save(figures.reconstructions(*anomalies), part / "strangest.png")
        projection = figures.fit_projection(codes.mean)
        z, axis_names = projection.project(codes.mean), projection.axis_names
        if by_umap:
            z, axis_names = torch.from_numpy(probes.umap_projection(codes.mean.numpy())), ["UMAP 1", "UMAP 2"]
        title = f"means of q(z|x), {given.split} images"
        figures.save(figures.scatter_plot(z, axis_names, images.labels, images.classes, title), part / "map.png")
        arrays = {"mean": codes.mean, "log_var": codes.log_var, "labels": images.labels}
        if images.factors is not None:
            arrays |= {f"factor_{name}": values for name, values in images.factors.items()}
        texts = {"names": images.names, "classes": images.classes}
        contents: dict[str, Any] = {
            name: np.asarray(array) for name, array in (arrays | texts).items() if array is not None
        }
        contents |= {"map": z.numpy(), "anomaly_score": scores.numpy(), "score": score, "split": given.split}
        np.savez(part / "codes.npz", **contents)
        written = sorted(path.name for path in part.iterdir())
    if given.wandb:
        log_to_wandb(folder, run.config, codes.mean, images)
    return [*lines, *(os.path.relpath(folder / "latent" / name) for name in written)]


def log_to_wandb(folder: Path, cfg: Any, mean: "Tensor", images: "Images") -> None:
    """Log codes (N, D) to the W&B run as the table `codes`, which W&B's embedding projector can display."""
    import wandb

    from vae.tracking.loggers import finish_wandb
    from vae.tracking.run_loggers import build_loggers

    labels = None if images.labels is None else images.labels.tolist()
    if labels and images.classes:
        labels = [images.classes[label] for label in labels]
    optional = {"label": labels, "name": images.names}
    first = {name: column for name, column in optional.items() if column is not None}
    columns: list[str | int] = [*first, *(f"z{i + 1}" for i in range(mean.shape[1]))]
    rows = [[*values, *z] for *values, z in zip(*first.values(), mean.tolist(), strict=True)]
    for logger in build_loggers(cfg, folder, ["wandb"]):
        logger.experiment.log({"codes": wandb.Table(columns, rows)})
    finish_wandb(0)


def main(typed: Sequence[str]) -> None:
    given = parse_arguments(Arguments, typed)
    show("\n".join(analyse(given)))


def cli() -> int:
    return run_command(main, __doc__, "stopped; nothing was written")


if __name__ == "__main__":
    sys.exit(cli())
