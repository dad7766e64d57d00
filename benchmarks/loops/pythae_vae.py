"""pythae: its VAE and its trainer; a callback binarises the training digits again before each epoch."""

from tempfile import TemporaryDirectory

import common
import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Encoder(BaseEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(common.PIXELS, common.HIDDEN), nn.Tanh(), nn.Linear(common.HIDDEN, 2 * common.LATENT_DIM)
        )

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_var = self.layers(x).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=log_var)


class Decoder(BaseDecoder):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(common.LATENT_DIM, common.HIDDEN),
            nn.Tanh(),
            nn.Linear(common.HIDDEN, common.PIXELS),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z))


class EpochCallback(TrainingCallback):
    """Binarise the training digits before each epoch and report the ELBO after it."""

    def __init__(self, grey: Tensor) -> None:
        self.grey = grey

    def on_epoch_begin(self, _config: BaseTrainerConfig, train_loader: DataLoader, **_: object) -> None:
        train_loader.dataset.data = torch.bernoulli(self.grey)

    def on_log(self, _config: BaseTrainerConfig, logs: dict[str, float], global_step: int, **_: object) -> None:
        common.report_epoch(global_step, -logs["eval_epoch_loss"])


def dataset(x: Tensor) -> BaseDataset:
    """Return a dataset of x; pythae requires labels, but does not use them."""
    return BaseDataset(x, torch.zeros(len(x)))


torch.manual_seed(0)
grey, val, test = (
    torch.from_numpy(common.train()) / 255,
    torch.from_numpy(common.val()),
    torch.from_numpy(common.test()),
)
config = VAEConfig(input_dim=(common.PIXELS,), latent_dim=common.LATENT_DIM, reconstruction_loss="bce")
vae = VAE(config, Encoder(), Decoder())
with TemporaryDirectory() as folder:
    trainer_config = BaseTrainerConfig(
        output_dir=folder,
        num_epochs=common.EPOCHS,
        learning_rate=common.LR,
        per_device_train_batch_size=common.BATCH,
        per_device_eval_batch_size=common.BATCH,
    )
    BaseTrainer(vae, dataset(grey), dataset(val), trainer_config, [EpochCallback(grey)]).train()
with torch.inference_mode():
    elbo = -vae(DatasetOutput(data=test)).loss.item()
common.report_test(elbo)
