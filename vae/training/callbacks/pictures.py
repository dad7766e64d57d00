"""Pictures during and after the training."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities import rank_zero_only

from vae import figures
from vae.tracking.loggers import MetricsCSV


class Pictures(Callback):
    """PNGs in `folder`, and in every logger that takes pictures.

    After epochs 1, 2, 4, 8, ... the samples, and validation images beside their reconstructions; after the test the
    rest, from test images.
    """

    def __init__(self, folder: Path, history: MetricsCSV) -> None:
        self.folder, self.history = folder, history

    def show(self, trainer: Trainer, name: str, picture: figures.Picture) -> None:
        file = self.folder / f"{name}.png"
        figures.save(picture, file)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):  # a PNG takes longer to make than to copy
                logger.log_image(key=name, images=[str(file)], step=trainer.global_step)

    @rank_zero_only
    @torch.inference_mode()
    def on_validation_end(self, trainer: Any, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch & (epoch - 1) == 0:
            x = trainer.datamodule.x("val", slice(50)).to(module.device)
            self.show(trainer, "val_reconstructions", figures.reconstructions(module.vae, x))
            self.show(trainer, "samples", figures.samples(module.vae))

    @rank_zero_only
    @torch.inference_mode()
    def on_test_end(self, trainer: Any, module: Any) -> None:
        data = trainer.datamodule
        codes = torch.cat(module.tested.codes)
        x = data.x("test", slice(50)).to(module.device)
        self.show(trainer, "reconstructions", figures.reconstructions(module.vae, x))
        self.show(trainer, "samples", figures.samples(module.vae))
        self.show(trainer, "latents", figures.latents(codes, data.images["test"].labels))
        known = data.images["train"]
        chunks = (data.x("train", slice(i, i + 500)) for i in range(0, min(len(known.pixels), 5000), 500))
        learned = torch.cat([module.vae.q_z(x.to(module.device)).mean for x in chunks])
        self.show(trainer, "mixture_samples", figures.mixture_samples(module.vae, learned))
        pairs = torch.linspace(0, len(known.pixels) - 1, 16).long()
        names = known.names and [known.names[i] for i in pairs]
        x = data.x("train", pairs).to(module.device)
        self.show(trainer, "fusions", figures.fusions(module.vae, x, names))
        if codes.shape[1] == 2:
            self.show(trainer, "manifold", figures.manifold(module.vae))
        self.show(trainer, "curves", figures.curves(self.history.rows, list(module.curves)))
