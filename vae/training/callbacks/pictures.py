"""The callback that saves and logs pictures."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities import rank_zero_only

from datamodules.base import ImageDataModule
from vae import figures
from vae.model.sampling import labels_in_turn
from vae.model.vae import VAE
from vae.tracking.metrics_csv import MetricsCSV
from vae.training.callbacks.progress import progress_bar

log = logging.getLogger(__name__)


class Pictures(Callback):
    """Save pictures as PNG files in `folder`, and send them to every logger that accepts images.

    After epochs 1, 2, 4, 8, ...: samples, and reconstructions of validation images. After the test: all pictures, with
    reconstructions and latents of test images. Of a dataset that has no pictures, only latents and curves are shown.
    """

    def __init__(self, folder: Path, history: MetricsCSV) -> None:
        self.folder, self.history = folder, history

    def save_and_log(self, trainer: Trainer, name: str, picture: figures.Picture) -> None:
        """Write <folder>/<name>.png and log it."""
        file = self.folder / f"{name}.png"
        figures.save(picture, file)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):  # given the file, because encoding a PNG again is slow
                logger.log_image(key=name, images=[str(file)], step=trainer.global_step)

    @rank_zero_only
    def on_train_start(self, trainer: Any, _module: Any) -> None:
        if not trainer.datamodule.has_pictures:
            log.info("vectors cannot be shown: no pictures of samples and reconstructions")

    @rank_zero_only
    @torch.inference_mode()
    def on_validation_end(self, trainer: Any, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if trainer.datamodule.has_pictures and epoch & (epoch - 1) == 0:
            pairs = figures.reconstructions(*given(trainer.datamodule, module, "val", slice(50)))
            self.save_and_log(trainer, "val_reconstructions", pairs)
            self.save_and_log(trainer, "samples", figures.samples(*labelled_columns(module)))

    @rank_zero_only
    @torch.inference_mode()
    def on_test_end(self, trainer: Any, module: Any) -> None:
        drawings = self.drawings(trainer.datamodule, module)
        with progress_bar(trainer, "pictures", len(drawings)) as bar:
            for name, draw in drawings.items():
                self.save_and_log(trainer, name, draw())
                bar.update()
        files = " ".join(f"{name}.png" for name in drawings)
        log.info(f"pictures in {os.path.relpath(self.folder)}: {files}")

    def drawings(self, data: ImageDataModule, module: Any) -> dict[str, Callable[[], figures.Picture]]:
        """Return a function that draws each picture of a trained model, the most informative first."""
        latents, test = torch.cat(module.test_metrics.latents), data.images["test"]
        labels = None if test.labels is None else test.labels[: len(latents)]  # trainer.limit_test_batches
        of_images: dict[str, Callable[[], figures.Picture]] = {
            "reconstructions": lambda: figures.reconstructions(*given(data, module, "test", slice(50))),
            "samples": lambda: figures.samples(*labelled_columns(module)),
            "mixture_samples": lambda: mixture_samples(data, module),
            "fusions": lambda: figures.fusions(*spread_images(data, module)),
        }
        if module.labels:
            of_images["styles"] = lambda: figures.styles(*given(data, module, "test", slice(10)), module.labels)
        elif latents.shape[1] == 2:
            of_images["manifold"] = lambda: figures.manifold(module.vae)
        return (of_images if data.has_pictures else {}) | {
            "latents": lambda: figures.latents(latents, labels, test.classes),
            "curves": lambda: figures.curves(self.history.rows, list(module.curves)),
        }


def train_latents(data: ImageDataModule, module: Any) -> torch.Tensor:
    """Return the means of q(z|x) of at most 5000 training images, (N, D)."""
    n = min(len(data.images["train"].pixels), 5000)
    chunks = (given(data, module, "train", slice(i, min(i + 500, n))) for i in range(0, n, 500))
    return torch.cat([vae.q_z(x).mean for vae, x in chunks])


def given(data: ImageDataModule, module: Any, split: str, rows: Any) -> tuple[VAE, torch.Tensor]:
    """Return the model, given the labels of these images if it is conditional, and the images."""
    y = (label.to(module.device) for label in data.y(split, rows))
    return module.vae.given(*y), data.x(split, rows).to(module.device)


def labelled_columns(module: Any) -> tuple[VAE, int, int]:
    """Return the model, given one label for each of n samples if it is conditional, n, and the number of columns.

    With up to ten labels, all samples of a column have the same label.
    """
    columns = module.labels * (10 // module.labels) if 0 < module.labels <= 10 else 10
    y = (label.to(module.device) for label in labels_in_turn(module.labels, 10 * columns))
    return module.vae.given(*y), 10 * columns, columns


def mixture_samples(data: ImageDataModule, module: Any) -> figures.Picture:
    """Show samples of a mixture fitted to training latents."""
    vae, n, columns = labelled_columns(module)
    return figures.mixture_samples(vae, train_latents(data, module), n, columns)


def spread_images(data: ImageDataModule, module: Any) -> tuple[VAE, torch.Tensor, Sequence[str] | None]:
    """Return the model, 16 training images evenly spaced in the training set, and their names, if any.

    A conditional model is given their labels.
    """
    images = data.images["train"]
    rows = torch.linspace(0, len(images.pixels) - 1, 16).long()
    return *given(data, module, "train", rows), images.names and [images.names[i] for i in rows]
