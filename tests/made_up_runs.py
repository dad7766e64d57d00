"""Run folders made by hand, as train.py leaves them."""

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

NASTY = "</script><b>é</b><img src=x onerror=alert(1)> '\" %{y} &lt; @data@"
SCORES = {"elbo": -100.0, "kl": 20.0, "active_units": 8, "log_px": -96.0, "log_px_se": 0.25, "bits_per_dim": 0.18}


def made(folder: Path, typed: dict, summary=None, failed=None, records=(), pictures=()) -> Path:
    """A folder of a run for which `typed` was typed: groups, or keys."""
    config = json.loads(json.dumps(DEFAULTS))
    for key, value in typed.items():
        if key not in CHOICES:
            *above, last = key.split(".")
            node = config
            for name in above:
                node = node[name]
            node[last] = value
    choices = CHOICES | {key: value for key, value in typed.items() if key in CHOICES}
    (folder / ".hydra").mkdir(parents=True)
    files = {
        "config": config,
        "hydra": {"hydra": {"runtime": {"choices": choices}}},
        "overrides": [f"{key}={value}" for key, value in typed.items()],
    }
    for name, content in files.items():
        (folder / ".hydra" / f"{name}.yaml").write_text(safe_dump(content), "utf-8")
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps({f"test/{name}": value for name, value in summary.items()}))
    if failed:
        (folder / "failed.txt").write_text(failed)
    if records:
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys(name for record in records for name in record))
            writer.writeheader()
            writer.writerows(records)
    for name in pictures:
        (folder / "figures").mkdir(exist_ok=True)
        Image.radial_gradient("L").resize((900, 600)).save(folder / "figures" / f"{name}.png")
    return folder


def trained(end: float, epochs: int = 10, axes=("images_seen", "seconds")) -> list[dict[str, float]]:
    """Records of a run whose ELBO comes to about `end`."""
    found = []
    for step in range(1, epochs * 10 + 1):
        kl = 25 * (1 - 0.97**step)
        elbo = end - 200 * 0.96**step
        terms = {"elbo": elbo, "kl": kl, "log_likelihood": elbo + kl, "objective": elbo}
        about = {"step": step * 50} | {name: step * {"images_seen": 10_000, "seconds": 0.5}[name] for name in axes}
        found.append(about | {f"train/{name}": value for name, value in terms.items()})
        if step % 10 == 0:
            found.append(about | {f"val/{name}": value - 1 for name, value in terms.items()} | {"epoch": step // 10})
    return found


def scored(log_px: float, **others: float) -> dict[str, float]:
    return SCORES | {"log_px": log_px, "elbo": log_px - 4} | others


def mixed(place: Path) -> Path:
    """Eight runs: two finished with log p(x), one with an ELBO alone, two with neither, and three that did not end."""
    both = ("samples", "reconstructions")
    made(place / "a", {"latent_dim": 10, "activation": "relu"}, scored(-94.5), records=trained(-99), pictures=both)
    made(place / "b", {"latent_dim": 2}, scored(-140.25), records=trained(-145), pictures=both[:1])
    elbo = {name: value for name, value in SCORES.items() if "px" not in name and "bits" not in name} | {"elbo": -80.0}
    made(place / "c", {"latent_dim": 5, "activation": NASTY}, elbo, records=trained(-110, axes=()))
    apart = [{"step": 50, "train/squared_error": 20.0}, {"step": 50, "val/squared_error": 19.0}]
    made(place / "d", {"objective": "autoencoder"}, {"squared_error": 18.0}, records=apart)
    renamed = {"minus_cross_entropy_less_kl": -105.0, "kl": 25.0}
    made(place / "e", {"likelihood": "grey_cross_entropy"}, renamed)
    made(place / "f", {"latent_dim": 50}, failed="diverged at step 3:\n  kl is inf", records=trained(-300, 2))
    made(place / "g", {"latent_dim": 30}, records=trained(-120, 4))
    made(place / "h", {"latent_dim": 31})
    return place
