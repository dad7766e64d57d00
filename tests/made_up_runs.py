"""Make run folders like those of train.py, without training."""

import csv
import json
from pathlib import Path

from PIL import Image
from yaml import safe_dump

DEFAULTS = {
    "latent_dim": 20,
    "activation": "tanh",
    "seed": 0,
    "data_dir": "data",
    "likelihood": {"_target_": "vae.model.likelihoods.Bernoulli"},
    "objective": {"K": 1, "beta": 1.0},
    "prior": {"components": 10},
    "dataset": {"_target_": "datamodules.mnist.MNIST", "binarize": "dynamic", "path": None},
}
CHOICES = {
    "dataset": "mnist",
    "objective": "elbo",
    "prior": "standard_normal",
    "likelihood": "bernoulli",
    "experiment": None,
    "hydra/output": "default",
}

HOSTILE_TEXT = "</script><b>é</b><img src=x onerror=alert(1)> '\" %{y} &lt; @data@"
SCORES = {"elbo": -100.0, "kl": 20.0, "active_units": 8, "log_px": -96.0, "log_px_se": 0.25, "bits_per_dim": 0.18}


def make_run(folder: Path, overrides: dict, summary=None, failure=None, history=(), pictures=()) -> Path:
    """Make the folder of a run with these overrides (choices of groups, or keys) and return it."""
    config = json.loads(json.dumps(DEFAULTS))
    for key, value in overrides.items():
        if key not in CHOICES:
            *parents, name = key.split(".")
            node = config
            for parent in parents:
                node = node[parent]
            node[name] = value
    choices = CHOICES | {key: value for key, value in overrides.items() if key in CHOICES}
    (folder / ".hydra").mkdir(parents=True)
    files = {
        "config": config,
        "hydra": {"hydra": {"runtime": {"choices": choices}}},
        "overrides": [f"{key}={value}" for key, value in overrides.items()],
    }
    for name, content in files.items():
        (folder / ".hydra" / f"{name}.yaml").write_text(safe_dump(content), "utf-8")
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps({f"test/{name}": value for name, value in summary.items()}))
    if failure:
        (folder / "failed.txt").write_text(failure)
    if history:
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys(name for row in history for name in row))
            writer.writeheader()
            writer.writerows(history)
    for name in pictures:
        (folder / "figures").mkdir(exist_ok=True)
        Image.radial_gradient("L").resize((900, 600)).save(folder / "figures" / f"{name}.png")
    return folder


def make_history(end: float, epochs: int = 10, axes=("images_seen", "seconds")) -> list[dict[str, float]]:
    """Return the rows of metrics.csv of a run whose ELBO converges to `end`."""
    rows = []
    for step in range(1, epochs * 10 + 1):
        kl = 25 * (1 - 0.97**step)
        elbo = end - 200 * 0.96**step
        terms = {"elbo": elbo, "kl": kl, "log_likelihood": elbo + kl, "objective": elbo}
        position = {"step": step * 50} | {name: step * {"images_seen": 10_000, "seconds": 0.5}[name] for name in axes}
        rows.append(position | {f"train/{name}": value for name, value in terms.items()})
        if step % 10 == 0:
            rows.append(position | {f"val/{name}": value - 1 for name, value in terms.items()} | {"epoch": step // 10})
    return rows


def make_scores(log_px: float, **others: float) -> dict[str, float]:
    """Return the test metrics of a run with this log p(x)."""
    return SCORES | {"log_px": log_px, "elbo": log_px - 4} | others


def make_mixed_runs(place: Path) -> Path:
    """Make eight runs: two finished with log p(x), one with the ELBO only, two with neither, three not finished."""
    both = ("samples", "reconstructions")
    make_run(
        place / "a",
        {"latent_dim": 10, "activation": "relu"},
        make_scores(-94.5),
        history=make_history(-99),
        pictures=both,
    )
    make_run(place / "b", {"latent_dim": 2}, make_scores(-140.25), history=make_history(-145), pictures=both[:1])
    elbo = {name: value for name, value in SCORES.items() if "px" not in name and "bits" not in name} | {"elbo": -80.0}
    make_run(place / "c", {"latent_dim": 5, "activation": HOSTILE_TEXT}, elbo, history=make_history(-110, axes=()))
    squares = [{"step": 50, "train/squared_error": 20.0}, {"step": 50, "val/squared_error": 19.0}]
    make_run(place / "d", {"objective": "autoencoder"}, {"squared_error": 18.0}, history=squares)
    renamed = {"minus_cross_entropy_less_kl": -105.0, "kl": 25.0}
    make_run(place / "e", {"likelihood": "grey_cross_entropy"}, renamed)
    make_run(place / "f", {"latent_dim": 50}, failure="diverged at step 3:\n  kl is inf", history=make_history(-300, 2))
    make_run(place / "g", {"latent_dim": 30}, history=make_history(-120, 4))
    make_run(place / "h", {"latent_dim": 31})
    return place
