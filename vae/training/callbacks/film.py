"""The callback that keeps small pictures during the training, for a GIF of it."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_only

from vae import figures
from vae.model.sampling import labels_in_turn, sample_shape
from vae.training.callbacks.pictures import given

FRAMES = 30  # about as many as are kept, in addition to those of epochs 1, 2, 4, 8, ...
COLUMNS = 8


class Film(Callback):
    """Write <folder>/<epoch>.png after epochs 1, 2, 4, 8, ... and at regular times.

    Each shows 16 samples with the same random numbers, then the same 8 validation images and their reconstructions.
    `python -m vae.generate what=training` makes a GIF of them. The random numbers of the training are not changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @rank_zero_only
    @torch.inference_mode()
    def on_validation_end(self, trainer: Any, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        regular = trainer.max_epochs > 0 and epoch % -(-trainer.max_epochs // FRAMES) == 0
        if not trainer.datamodule.has_pictures or not (regular or epoch & (epoch - 1) == 0):
            return
        vae, x = given(trainer.datamodule, module, "val", slice(COLUMNS))
        sampler = module.vae.given(*(y.to(module.device) for y in labels_in_turn(module.labels, 2 * COLUMNS)))
        p_z = sampler.p_z()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            samples = sampler.decode(p_z.sample(sample_shape(p_z, 2 * COLUMNS)))
        pictures = torch.cat([samples, x, vae.decode(vae.q_z(x).mean)])
        figures.save(figures.grid(pictures, COLUMNS, width=0), self.folder / f"{epoch:06}.png")
