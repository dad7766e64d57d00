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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from vae.api.run import load
from vae.config.command_line import parse_arguments, run_command
from vae.config.section import PositiveInt
from vae.errors import UserError
from vae.runs.atomic_files import atomic_directory
from vae.terminal import show

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.base import Images

N_ANOMALIES = 50  # images in strangest.png


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
    table = format_table(title, results["found"], names)
    if results["conditional"]:
        table += "\n  conditional=true: the encoder was given the label of each image, so its code may contain it"
    return table


def factors_table(results: dict[str, Any]) -> str:
    """Format how well dimensions of the codes stand for the factors."""
    from vae.latent.disentanglement import TITLES

    n = results["images"]
    title = (
        f"known factors, {', '.join(results['names'])}: {n['tested']:,} {results['split']} images;"
        f" forests fitted to {n['fitted']:,} training images"
    )
    return format_table(title, results["found"], TITLES)


def analyse(given: Arguments) -> list[str]:
    """Write the results to latent/ in the folder of a run. Return the lines to print.

    Raises UserError for a request that the run cannot satisfy.
    """
    run = load(given.run, given.trust, given.config_dir, given.data_path)
    folder = run.folder
    from vae.latent import evaluation, probes

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
    x, y, labels = data.x(given.split), data.y(given.split), evaluation.class_labels(data, given.split)
    lines: list[str] = []
    results: dict[str, Any] = {}
    with torch.inference_mode(), atomic_directory(folder / "latent") as part:
        codes = evaluation.encode(vae, x, *y)
        if labels is None:
            lines.append(
                f"  no labels, or fewer than {evaluation.MIN_IMAGES_PER_CLASS} images per label:"
                " clusters and probes are skipped"
            )
        else:
            results |= evaluation.evaluate_codes(
                vae, data, codes, labels, given.split, given.clusters, given.k, given.images
            )
            lines.append(labels_table(results))
        if images.factors is None:
            lines.append("  no known factors: MIG, SAP, the FactorVAE score and DCI are skipped")
        else:
            results["factors"] = evaluation.evaluate_dimensions(
                vae, data, codes, images.factors, given.split, given.images
            )
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

    from vae.tracking.build import build_loggers
    from vae.tracking.wandb_run import finish_wandb

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
