"""A run of train.py: its files, and its model, which is loaded when it is first needed. Nothing here imports torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vae.compare.page import thumbnail
from vae.errors import UserError, did_you_mean
from vae.runs.results_table import format_value
from vae.runs.run_folder import IGNORED_KEYS, RunFolder, latest_finished_run, read_finished_run

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from omegaconf import DictConfig
    from PIL import Image
    from torch import Tensor

    from datamodules.base import ImageDataModule
    from vae.api.images import SelectedImages
    from vae.api.pictures import Pictures
    from vae.api.trained_model import TrainedModel
    from vae.model.vae import VAE
    from vae.training.lightning_module import VAEModule
    from vae.training.run_data import RunData

Split = Literal["train", "val", "test"]
Source = Literal["prior", "mixture"]
Interpolation = Literal["linear", "spherical"]
SPLITS, SOURCES, INTERPOLATIONS = map(get_args, (Split, Source, Interpolation))
SETTINGS = ("dataset", "latent_dim")  # keys that are always shown
HEADLINES = ("test/elbo", "test/log_px")


@dataclass(frozen=True, repr=False)
class Run(RunFolder):
    """A run: its settings and metrics, and what its model makes of images.

    `images` are an array or tensor, uint8, bool or float in [0, 1], (N, H, W), (N, H, W, C) or (N, C, H, W), or one or
    a list of names, numbers of test images, files or PIL images. D is the number of latent dimensions. Methods that
    need the model raise UserError as `load` does, and if an argument does not suit the run.

    `labels` are for a run with conditional=true: one label for all images, or a list with one for each. Those of the
    dataset's own images are known.
    """

    trust: bool = False
    config_dir: str = ""
    data_path: str = ""

    @cached_property
    def checked_config(self) -> "DictConfig":
        """The config, if the run is finished and can be trusted."""
        return read_finished_run(self.folder, self.trust, self.config_dir, self.data_path).config

    @cached_property
    def about_images(self) -> "RunData":
        """The shape of the images and a fingerprint of each split."""
        cfg = self.checked_config
        from vae.training.experiment import describe_images

        return describe_images(cfg, self.folder)

    @cached_property
    def data(self) -> "ImageDataModule":
        """The data module, with all images."""
        cfg = self.checked_config
        from vae.training.experiment import load_dataset

        return load_dataset(cfg, self.folder)

    @cached_property
    def module(self) -> "VAEModule":
        """The LightningModule with the weights of the best epoch."""
        cfg = self.checked_config
        from vae.training.build import load_trained

        about = self.about_images
        return load_trained(cfg, about.shape, self.folder, len(about.labels), about.splits["train"].images)

    @property
    def vae(self) -> "VAE":
        """The model, a torch module."""
        return self.module.vae

    @cached_property
    def model(self) -> "TrainedModel":
        """The model and its images, for torch tensors."""
        from vae.api.trained_model import TrainedModel

        return TrainedModel(self.vae, lambda: self.data, label_names=self.about_images.labels)

    def input(self, images: Any) -> "Tensor":
        """Return images as the model receives them, (N, C, H, W), float in [0, 1], on the CPU."""
        from vae.api.images import as_images

        return as_images(self.data, images).x

    def images(self, split: Split = "test") -> "Pictures":
        """Return the images of a split."""
        from vae.api.pictures import Pictures

        check_choice("split", split, SPLITS)
        return Pictures(self.data.x(split))

    def labels(self, split: Split = "test") -> "NDArray[np.int64] | None":
        """Return the labels of a split, (N,); None if the dataset has none."""
        check_choice("split", split, SPLITS)
        labels = self.data.images[split].labels
        return None if labels is None else labels.numpy()

    @property
    def label_names(self) -> list[str]:
        """The labels of a run with conditional=true."""
        return self.about_images.labels

    def _with_labels(self, found: "SelectedImages", labels: Any) -> "tuple[Tensor, ...]":
        """Return images as the model receives them and, for a conditional model, their labels."""
        y = self.model.find_labels("labels", labels, len(found.x)) if labels is not None else found.y
        if self.label_names and not y:
            raise UserError("labels: expected the label of each image, because the run has conditional=true")
        return found.x, *y

    def encode(self, images: Any, labels: Any = None) -> "NDArray[np.float32]":
        """Return the means of q(z|x), (N, D)."""
        from vae.api.images import as_images

        return self.model.encode(*self._with_labels(as_images(self.data, images), labels)).cpu().numpy()

    def decode(self, z: Any, labels: Any = None, candidates: int = 1) -> "Pictures":
        """Return the pictures of p(x|z) for latents z, (N, D), or (D,) for one.

        With other labels than those of `encode`, the style stays and the label changes. If pixels are sampled, as with
        dataset=pokemon, each picture is the one of `candidates` samples whose encoding is closest to its latent.
        """
        check_count("candidates", candidates, 1)
        from vae.api.pictures import Pictures

        codes = self.model.as_codes(z, self.config.latent_dim)
        if self.label_names and labels is None:
            raise UserError("labels: expected the label of each picture, because the run has conditional=true")
        y = self.model.find_labels("labels", labels, len(codes))
        return Pictures(self.model.decode(codes, *y, candidates=candidates))

    def sample(
        self,
        n: int = 1,
        temperature: float = 1.0,
        source: Source = "prior",
        seed: int | None = None,
        label: Any = None,
    ) -> "Pictures":
        """Return the pictures of n latents sampled from the prior, or from a mixture fitted to training latents.

        A temperature below 1 samples closer to the modes. The same `seed` gives the same pictures. With
        conditional=true, `label` is one label for all, or a list with one for each; None: all labels in turn.
        """
        check_count("n", n, 1)
        if not temperature >= 0:
            raise UserError(f"temperature={temperature}: expected a number of 0 or more")
        check_choice("source", source, SOURCES)
        from vae.api.pictures import Pictures
        from vae.model.sampling import seeded

        with seeded(seed):
            y = self.model.find_labels("label", label, n)
            return Pictures(self.model.decode(self.model.sample_codes(n, temperature, source, *y), *y))

    def reconstruct(self, images: Any, labels: Any = None, candidates: int = 1) -> "Pictures":
        """Return the pictures of p(x|z) at the means of q(z|x); `candidates` is that of `decode`."""
        check_count("candidates", candidates, 1)
        from vae.api.images import as_images
        from vae.api.pictures import Pictures

        x, *y = self._with_labels(as_images(self.data, images), labels)
        return Pictures(self.model.decode(self.model.encode(x, *y), *y, candidates=candidates))

    def log_px(self, images: Any, K: int = 100, labels: Any = None) -> "NDArray[np.float32]":
        """Estimate log p(x) of each image, (N,), in nats, from K importance samples. Repeated calls agree.

        With conditional=true, this is log p(x|y).
        """
        check_count("K", K, 1)
        if not self.module.has_elbo:
            raise UserError("log_px: the objective of this run is not a bound on log p(x)")
        from vae.api.images import as_images

        x, *y = self._with_labels(as_images(self.data, images), labels)
        return self.model.log_px(x, K, *y).numpy()

    def interpolate(
        self, a: Any, b: Any, steps: int = 11, interpolation: Interpolation = "spherical", labels: Any = None
    ) -> "Pictures":
        """Return `steps` pictures from one image to another. With conditional=true, the label changes as well."""
        check_count("steps", steps, 2)
        return self._between(a, b, [i / (steps - 1) for i in range(steps)], interpolation, labels, 1)

    def fuse(
        self,
        a: Any,
        b: Any,
        interpolation: Interpolation = "spherical",
        labels: Any = None,
        candidates: int | None = None,
    ) -> "Pictures":
        """Return the picture halfway between two images; if pixels are sampled, by default the best of 16 `candidates`.

        `candidates` is that of `decode`.
        """
        candidates = self.model.fusion_candidates if candidates is None else candidates
        return self._between(a, b, [0.5], interpolation, labels, candidates)

    def _between(self, a: Any, b: Any, t: list[float], interpolation: str, labels: Any, candidates: int) -> "Pictures":
        from vae.api.images import as_images, join
        from vae.api.pictures import Pictures

        check_choice("interpolation", interpolation, INTERPOLATIONS)
        check_count("candidates", candidates, 1)
        ends = [as_images(self.data, image) for image in (a, b)]
        for name, found in zip("ab", ends, strict=True):
            if len(found.x) != 1:
                raise UserError(f"{name}: expected one image; got {len(found.x)}")
        x, *y = self._with_labels(join(ends), labels)
        z = self.model.encode(x, *y)
        return Pictures(self.model.interpolate(z, t, interpolation, *y, candidates=candidates))

    @property
    def metrics(self) -> "pd.DataFrame":
        """The rows of metrics.csv, one per logging step."""
        import pandas as pd

        return pd.DataFrame(self.history)

    @property
    def figures(self) -> "dict[str, Image.Image]":
        """The pictures in figures/, by name."""
        from PIL import Image

        return {path.stem: Image.open(path) for path in sorted((self.folder / "figures").glob("*.png"))}

    def __repr__(self) -> str:
        settings = [f"{key}={format_value(self.value(key))}" for key in SETTINGS]
        metrics = [f"{name} {self.summary[name]:.2f}" for name in HEADLINES if name in self.summary]
        return f"Run({', '.join([os.path.relpath(self.folder), ' '.join(settings), self.status, *metrics])})"

    def _repr_html_(self) -> str:
        """Show the keys, the test metrics and the pictures."""
        keys = dict.fromkeys([*SETTINGS, *self.overridden_keys])
        settings = {key: format_value(self.value(key)) for key in keys if key.partition(".")[0] not in IGNORED_KEYS}
        metrics = {name: f"{value:.2f}" for name, value in self.summary.items()}
        pictures = (thumbnail(path) for path in sorted((self.folder / "figures").glob("*.png")))
        return (
            f"<b>{escape(os.path.relpath(self.folder))}</b> {escape(self.failure or self.status)}"
            f"<div style='display: flex; gap: 3em'>{html_table(settings)}{html_table(metrics)}</div>"
            + "".join(f"<img src='{picture}' style='max-width: 24em; margin: 4px'>" for picture in pictures if picture)
        )


def html_table(values: dict[str, str]) -> str:
    """Return an HTML table with one row per name."""
    rows = (f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in values.items())
    return f"<table>{''.join(rows)}</table>"


def check_choice(name: str, given: str, allowed: Sequence[str]) -> None:
    """Raise UserError if a value is not one of those allowed."""
    if given not in allowed:
        raise UserError(f"{name}={given}: expected one of {', '.join(allowed)}{did_you_mean(str(given), allowed)}")


def check_count(name: str, given: int, least: int) -> None:
    """Raise UserError if a value is not a whole number of at least `least`."""
    if not isinstance(given, int) or given < least:
        raise UserError(f"{name}={given}: expected a whole number, {least} or more")


def load(folder: str | Path | None = None, trust: bool = False, config_dir: str = "", data_path: str = "") -> Run:
    """Load the run in a folder; without one, the newest finished run in outputs/.

    Raises UserError if it is not the folder of a finished run, or, without `trust`, if it could run code that neither
    conf/ nor the folder `config_dir` names, or write outside of its folder. `data_path` is where the images of the run
    are now, if they have moved. Model and images are loaded when they are first used.
    """
    path = Path(folder) if folder else latest_finished_run(Path("outputs"))
    run = read_finished_run(path, trust, config_dir, data_path)
    return Run(**vars(run), trust=trust, config_dir=config_dir, data_path=data_path)
