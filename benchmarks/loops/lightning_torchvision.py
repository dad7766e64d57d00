"""Lightning and torchvision as in tutorials: a dataset of PIL images, binarised by a transform."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import common
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Lambda, ToTensor


class VAE(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(common.PIXELS, common.HIDDEN), nn.Tanh(), nn.Linear(common.HIDDEN, 2 * common.LATENT_DIM)
        )
        self.decoder = nn.Sequential(
            nn.Linear(common.LATENT_DIM, common.HIDDEN), nn.Tanh(), nn.Linear(common.HIDDEN, common.PIXELS)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x|z) and the KL divergence for images (B, 784), as means over the images."""
        mean, log_var = self.encoder(x).chunk(2, -1)
        z = mean + (log_var / 2).exp() * torch.randn_like(mean)
        log_px_z = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(-1)
        kl = (mean.square() + log_var.exp() - 1 - log_var).sum(-1) / 2
        return log_px_z.mean(), kl.mean()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        log_px_z, kl = self(batch[0])
        self.log("elbo", log_px_z - kl, prog_bar=True)
        self.log("log_likelihood", log_px_z)
        self.log("kl", kl)
        return kl - log_px_z

    def validation_step(self, batch: list[Tensor]) -> None:
        log_px_z, kl = self(batch[0])
        self.log("val/elbo", log_px_z - kl, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """Report the epoch; its validation has already run."""
        common.report_epoch(self.current_epoch + 1, self.trainer.callback_metrics["val/elbo"].item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=common.LR)


def loader(images: Subset, shuffle: bool) -> DataLoader:
    return DataLoader(images, common.BATCH, shuffle, num_workers=int(os.environ.get("WORKERS", "0")))


seed_everything(0)
transform = Compose([ToTensor(), Lambda(lambda grey: torch.bernoulli(grey).flatten())])
images = MNIST(Path(os.environ["MNIST"]).parent.parent, transform=transform)
train, val = Subset(images, range(55000)), Subset(images, range(55000, 60000))
vae = VAE()
with TemporaryDirectory() as folder:
    trainer = Trainer(max_epochs=common.EPOCHS, logger=CSVLogger(folder), default_root_dir=folder)
    trainer.fit(vae, loader(train, True), loader(val, False))
vae.eval()
with torch.inference_mode():
    log_px_z, kl = vae(torch.from_numpy(common.test()))
common.report_test((log_px_z - kl).item())
