"""What is in the codes of a finished run: python -m vae.latent [run=outputs/...] [split=test] [map=umap].

Of the newest run unless said. Into its latent/ go codes.npz, a map of the codes (map=pca or umap), the strangest
images (by log p(x) of K=50 samples, or with score=reconstruction) and, where labels have several images each,
latent.json: how well clusters of the codes (clusters=kmeans or mixture, k= of them) agree with the labels, and how
well simple classifiers fitted to codes of training images (images=10000 of them) know the labels of test images;
beside the same of raw pixels and of as many principal components. wandb=true sends the codes to the run's W&B run, as
a table.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from vae.config.command_line import arguments, command
from vae.config.schema import Count
from vae.errors import UserError
from vae.runs import run_folder as runs
from vae.runs.atomic_files import whole
from vae.runs.run_folder import finished

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from datamodules.base import ImageDataModule
    from vae.model.vae import VAE

BATCH = 500  # images at a time
MOST = 10_000  # images whose clusters are looked for
SHOWN = 50  # of the strangest images
REPEATED = 5  # images a label has, on average, where labels are kinds


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field("", description="the folder of a finished run")
    split: Literal["test", "val", "train"] = "test"
    map: Literal["pca", "umap"] = "pca"
    clusters: Literal["kmeans", "mixture"] = "kmeans"
    k: int | None = Field(None, ge=2, description="a whole number, 2 or more, or null for the number of labels")
    score: Literal["log_px", "reconstruction"] = "log_px"
    K: Count = 50
    images: int = Field(10_000, ge=2, description="a whole number, 2 or more")
    wandb: bool = Field(False, description="true or false")


class Codes(NamedTuple):
    """q(z|x) of N images: its mean, (N, D), and, of a diagonal Gaussian, its log-variance, (N, D)."""

    mean: "Tensor"
    log_var: "Tensor | None"


def encoded(vae: "VAE", x: "Tensor") -> Codes:
    """The codes of images x, (N, C, H, W), on the CPU."""
    import torch

    torch.manual_seed(0)  # the mean of a flow is drawn
    device = next(vae.parameters()).device
    q_z = [vae.q_z(batch.to(device)) for batch in x.split(BATCH)]
    mean = torch.cat([q.mean for q in q_z]).cpu()
    if not hasattr(q_z[0], "log_var"):
        return Codes(mean, None)
    return Codes(mean, torch.cat([q.log_var for q in q_z]).cpu())  # type: ignore[attr-defined]


def some(n: int, most: int) -> "Tensor":
    """At most so many of the rows 0 to n - 1, drawn at random but always the same, in order."""
    import torch

    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:most].sort().values


def kinds(data: "ImageDataModule", split: str) -> "Tensor | None":
    """The labels of a split if they are kinds, of which there are several images each; else None."""
    labels, known = data.images[split].labels, data.images["train"].labels
    if labels is None or known is None or len(labels) < REPEATED * len(labels.unique()):
        return None
    return labels if len(labels.unique()) > 1 else None


def measured(vae: "VAE", data: "ImageDataModule", codes: Codes, labels: "Tensor", given: Arguments) -> dict[str, Any]:
    """The clusters of a split's codes, the probes of test images, and both of pixels and principal components."""
    from tqdm import tqdm

    from vae.latent import probes

    known, test = data.images["train"], data.images["test"]
    fitted, rows = some(len(known.pixels), given.images), some(len(labels), MOST)
    k = given.k or len(labels.unique())
    if k > len(rows):
        raise UserError(f"k={k}: expected 2 to {len(rows)}, or null for the number of labels")
    assert known.labels is not None
    assert test.labels is not None
    if len(known.labels[fitted].unique()) < 2:
        raise UserError(f"images={given.images}: expected more, of two labels or more, to fit classifiers to")
    images = data.x("train", fitted), data.x("test"), data.x(given.split, rows)
    pixels: list[np.ndarray] = [x.flatten(1).numpy() for x in images]
    means = [encoded(vae, x).mean.numpy() for x in images[:2]] + [codes.mean[rows].numpy()]
    features = {"codes": means, "pixels": pixels}
    features["principal components"] = probes.principal(pixels[0], codes.mean.shape[1], *pixels[1:])
    found: dict[str, Any] = {}
    for name, (train, tested, clustered) in tqdm(features.items(), "clusters, probes", leave=False, disable=None):
        groups = probes.clusters(clustered, k, given.clusters)
        found[name] = {
            "features": train.shape[1],
            **probes.agreement(labels[rows].numpy(), groups),
            **probes.accuracies(train, known.labels[fitted].numpy(), tested, test.labels.numpy()),
        }
    counts = {"clustered": len(rows), "fitted": len(fitted), "tested": len(test.pixels)}
    return {"split": given.split, "clusters": given.clusters, "k": k, "images": counts, "found": found}


def table(of: dict[str, Any]) -> str:
    """What was measured, a line for each kind of features."""
    names = {
        "adjusted_rand": "ARI",
        "nmi": "NMI",
        "matching_accuracy": "matched",
        "linear_probe": "linear probe",
        "nearest_neighbours": "neighbours",
    }
    n = of["images"]
    lines = [
        f"{of['clusters']}, k = {of['k']}, of {n['clustered']:,} {of['split']} images;"
        f" probes fitted to {n['fitted']:,} training images, and tested on {n['tested']:,}",
        " " * 26 + "".join(f"{name:>14}" for name in names.values()),
    ]
    for features, row in of["found"].items():
        title = f"{features} ({row['features']})"
        lines.append(f"{title:<26}" + "".join(f"{row[name]:>14.3f}" for name in names))
    return "\n".join(f"  {line}".rstrip() for line in lines)


def latent(folder: Path, given: Arguments) -> list[str]:
    """Write what is asked for into the run's latent/; the lines to show. UserError for what cannot be."""
    cfg, _ = finished(folder)
    from vae.latent import probes

    by_umap = given.map == "umap" and cfg.latent_dim > 2
    if by_umap:
        probes.umap()  # refused before the work
    if given.wandb and not (folder / "wandb_id").exists():
        raise UserError(f"wandb=true: {folder} was no run of W&B; there is no wandb_id in it")
    import numpy as np
    import torch

    from vae import figures
    from vae.model.estimator import anomaly_score
    from vae.training.experiment import load, load_trained

    data = load(cfg)
    module = load_trained(cfg, data.shape, folder)
    vae, of_split = module.vae, data.images[given.split]
    x, labels = data.x(given.split), kinds(data, given.split)
    lines = []
    with torch.inference_mode(), whole(folder / "latent") as part:
        codes = encoded(vae, x)
        if labels is None:
            lines.append(f"  no labels, or fewer than {REPEATED} images of each: no clusters and no probes")
        else:
            found = measured(vae, data, codes, labels, given)
            (part / "latent.json").write_text(json.dumps(found, indent=2) + "\n")
            lines.append(table(found))
        score = given.score if module.bounds else "reconstruction"
        strange = anomaly_score(vae, x, score, given.K)
        order = strange.argsort(descending=True)
        what = f"-log p(x) in nats, K = {given.K}" if score == "log_px" else "squared error of the reconstruction"
        named = [of_split.names[i] if of_split.names else str(i) for i in order[:10].tolist()]
        lines.append(f"  strangest, by {what}: {', '.join(named)}")
        pairs = x[order[:SHOWN]].to(next(vae.parameters()).device)
        figures.save(figures.reconstructions(vae, pairs), part / "strangest.png")
        plane = figures.fit_projection(codes.mean)
        z, names = plane.project(codes.mean), plane.axis_names
        if by_umap:
            z, names = torch.from_numpy(probes.umap_of(codes.mean.numpy())), ["UMAP 1", "UMAP 2"]
        title = f"means of q(z|x), {given.split} images"
        figures.save(figures.scatter_plot(z, names, of_split.labels, title), part / "map.png")
        arrays = {"mean": codes.mean, "log_var": codes.log_var, "labels": of_split.labels, "names": of_split.names}
        kept: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
        kept |= {"map": z.numpy(), "anomaly_score": strange.numpy(), "score": score, "split": given.split}
        np.savez(part / "codes.npz", **kept)
        written = sorted(path.name for path in part.iterdir())
    if given.wandb:
        send(folder, cfg, codes.mean, of_split.labels, of_split.names)
    return [*lines, *(os.path.relpath(folder / "latent" / name) for name in written)]


def send(folder: Path, cfg: Any, mean: "Tensor", labels: "Tensor | None", names: Any) -> None:
    """Codes (N, D) as the table `codes` of the run's W&B run, of which its embedding projector makes a map."""
    import wandb

    from vae.tracking.loggers import finish
    from vae.training.experiment import build_logger

    about = {"label": labels.tolist() if labels is not None else None, "name": names}
    about = {name: column for name, column in about.items() if column is not None}
    columns: list[str | int] = [*about, *(f"z{i + 1}" for i in range(mean.shape[1]))]
    rows = [[*beside, *z] for *beside, z in zip(*about.values(), mean.tolist(), strict=True)]
    for logger in build_logger(cfg, folder):
        logger.experiment.log({"codes": wandb.Table(columns, rows)})
    finish(0)


def main(typed: Sequence[str]) -> None:
    given = arguments(Arguments, typed)
    print("\n".join(latent(Path(given.run) if given.run else runs.newest(Path("outputs")), given)))


def cli() -> int:
    return command(main, __doc__, "stopped; nothing is written")


if __name__ == "__main__":
    sys.exit(cli())
