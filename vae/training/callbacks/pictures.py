"""The callback that saves and logs pictures."""

import logging
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities import rank_zero_only

from vae import figures
from vae.tracking.loggers import MetricsCSV

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
        data = trainer.datamodule
        test_latents = torch.cat(module.test_metrics.latents)
        if data.has_pictures:
            self.show_images(trainer, module)
        test = data.images["test"]
        self.save_and_log(trainer, "latents", figures.latents(test_latents, test.labels, test.classes))
        if data.has_pictures and test_latents.shape[1] == 2:
            self.save_and_log(trainer, "manifold", figures.manifold(module.vae))
        self.save_and_log(trainer, "curves", figures.curves(self.history.rows, list(module.curves)))

    def show_images(self, trainer: Any, module: Any) -> None:
        """Show reconstructions, samples and fusions."""
        data = trainer.datamodule
        x = data.x("test", slice(50)).to(module.device)
        self.save_and_log(trainer, "reconstructions", figures.reconstructions(module.vae, x))
        self.save_and_log(trainer, "samples", figures.samples(module.vae))
        train_images = data.images["train"]
        n = len(train_images.pixels)
        chunks = (data.x("train", slice(i, i + 500)) for i in range(0, min(n, 5000), 500))
        train_latents = torch.cat([module.vae.q_z(x.to(module.device)).mean for x in chunks])
        self.save_and_log(trainer, "mixture_samples", figures.mixture_samples(module.vae, train_latents))
        rows = torch.linspace(0, n - 1, 16).long()
        names = train_images.names and [train_images.names[i] for i in rows]
        x = data.x("train", rows).to(module.device)
        self.save_and_log(trainer, "fusions", figures.fusions(module.vae, x, names))
