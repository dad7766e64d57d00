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
from vae.tracking.loggers import MetricsCSV
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
            x = trainer.datamodule.x("val", slice(50)).to(module.device)
            self.save_and_log(trainer, "val_reconstructions", figures.reconstructions(module.vae, x))
            self.save_and_log(trainer, "samples", figures.samples(module.vae))

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
        """Return what draws each picture of a trained model, the most telling first."""
        vae, device = module.vae, module.device
        latents, test = torch.cat(module.test_metrics.latents), data.images["test"]
        labels = None if test.labels is None else test.labels[: len(latents)]  # trainer.limit_test_batches
        of_images: dict[str, Callable[[], figures.Picture]] = {
            "reconstructions": lambda: figures.reconstructions(vae, data.x("test", slice(50)).to(device)),
            "samples": lambda: figures.samples(vae),
            "mixture_samples": lambda: figures.mixture_samples(vae, train_latents(data, module)),
            "fusions": lambda: figures.fusions(vae, *spread_images(data, device)),
        }
        if latents.shape[1] == 2:
            of_images["manifold"] = lambda: figures.manifold(vae)
        return (of_images if data.has_pictures else {}) | {
            "latents": lambda: figures.latents(latents, labels, test.classes),
            "curves": lambda: figures.curves(self.history.rows, list(module.curves)),
        }


def train_latents(data: ImageDataModule, module: Any) -> torch.Tensor:
    """Return the means of q(z|x) of at most 5000 training images, (N, D)."""
    n = min(len(data.images["train"].pixels), 5000)
    chunks = (data.x("train", slice(i, i + 500)) for i in range(0, n, 500))
    return torch.cat([module.vae.q_z(x.to(module.device)).mean for x in chunks])


def spread_images(data: ImageDataModule, device: torch.device) -> tuple[torch.Tensor, Sequence[str] | None]:
    """Return 16 training images, (16, C, H, W), evenly spaced in the training set, and their names, if any."""
    images = data.images["train"]
    rows = torch.linspace(0, len(images.pixels) - 1, 16).long()
    return data.x("train", rows).to(device), images.names and [images.names[i] for i in rows]
