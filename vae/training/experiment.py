"""One run: load the data, build callbacks and Trainer from the config, train, test, and write the results."""

import gc
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from datamodules.base import ImageDataModule, Images
from vae.acceleration.torch_settings import configure_torch
from vae.config.schema import CONF
from vae.errors import UserError, one_line
from vae.runs.atomic_files import atomic_write
from vae.runs.checkpoint_files import BEST, LAST, checkpoint_to_resume
from vae.runs.run_folder import read_summary, store_changes
from vae.runs.run_lock import check_is_new
from vae.tracking.build import build_loggers
from vae.tracking.metrics_csv import MetricsCSV
from vae.tracking.wandb_run import finish_wandb
from vae.training.build import CHECKPOINT_ERRORS, build
from vae.training.callbacks.acceleration import acceleration_callbacks
from vae.training.callbacks.checkpoints import AtomicCheckpointIO, NamedCheckpoint, ResumableEarlyStopping
from vae.training.callbacks.film import Film
from vae.training.callbacks.graceful_shutdown import GracefulShutdown
from vae.training.callbacks.pictures import Pictures
from vae.training.callbacks.progress import Progress
from vae.training.callbacks.weight_average import WeightAverage
from vae.training.lightning_module import VAEModule
from vae.training.part_checks import check_keys, check_parts, check_support
from vae.training.run_data import RunData, check_run_data, describe, read_run_data, write_run_data

configure_torch()
# A process is the only one, whatever RANK, LOCAL_RANK or SLURM_PROCID say; those of trainer=ddp have another rank.
rank_zero_only.rank = 0  # type: ignore[attr-defined]

log = logging.getLogger(__name__)
for name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)
for message in (
    r"`isinstance\(treespec, LeafSpec\)`",
    "Checkpoint directory .* exists and is not empty",
    "The `srun` command",
):
    warnings.filterwarnings("ignore", message)

DATASET_CACHE: dict[str, dict[str, Images]] = {}  # shared by the jobs of a sweep in one process


def load_dataset(cfg: DictConfig, folder: Path) -> ImageDataModule:
    """Load the images of the run in `folder` into memory. Raises UserError if they have changed since it began."""
    data = instantiate(cfg.dataset)
    data.conditional = cfg.get("conditional", False)  # older runs lack this key
    data.labelled = cfg.objective.get("labelled")
    image_keys = {key: value for key, value in cfg.dataset.items() if key not in ("batch_size", "seed")}
    data.images = DATASET_CACHE.setdefault(f"{os.getcwd()} {image_keys}", data.images)
    while len(DATASET_CACHE) > 4:
        del DATASET_CACHE[next(iter(DATASET_CACHE))]
    data.prepare_data()
    data.setup()
    _ = data.label_values, data.labelled_rows  # a conditional model needs labels
    check_run_data(data, folder)
    return data


def describe_images(cfg: DictConfig, folder: Path) -> RunData:
    """Return what is known of the images of a run. They are loaded only for runs of version 0.1."""
    return read_run_data(folder) or describe(load_dataset(cfg, folder))


# likelihood=auto, by the type of the pixels
LIKELIHOODS = {torch.bool: "bernoulli", torch.uint8: "discretized_logistic", torch.float: "gaussian"}


def choose_likelihood(cfg: DictConfig, data: ImageDataModule, folder: Path) -> None:
    """Replace likelihood=auto by the one that suits the images, in `cfg` and in the config of the run's folder."""
    if "_target_" in cfg.likelihood:
        return
    name = LIKELIHOODS[data.images["val"].pixels.dtype]
    log.info(f"likelihood=auto: {name}")
    with open_dict(cfg):
        cfg.likelihood = OmegaConf.load(CONF / "likelihood" / f"{name}.yaml")
    stored = OmegaConf.load(folder / ".hydra" / "config.yaml")
    stored.likelihood = cfg.likelihood
    atomic_write(OmegaConf.to_yaml(stored), folder / ".hydra" / "config.yaml")


def checkpoint_step(module: VAEModule, checkpoint: Path) -> int:
    """Return the optimizer step of a checkpoint. Raises UserError if it cannot be read or is of another model."""
    try:
        content = torch.load(checkpoint, weights_only=True, map_location="cpu")
        module.load_state_dict(content["state_dict"])
        return content["global_step"]
    except CHECKPOINT_ERRORS:
        damaged = f"{checkpoint} is damaged or does not match the run's config"
        raise UserError(f"resume={checkpoint.parent.parent}: {damaged}") from None


@rank_zero_only
def report_test(test_metrics: dict[str, float], images: int, cfg: DictConfig, folder: Path) -> None:
    """Log the test metrics, means over this number of images, as a table, and write them to summary.json."""
    values = {name.removeprefix("test/"): value for name, value in test_metrics.items()}
    log_px_images = min(cfg.test.images or images, images)
    notes = {
        "log_px": f"+- {values.pop('log_px_se', 0):.2f}  K = {cfg.test.K}, {log_px_images:,} images",
        "active_units": f"of {cfg.latent_dim}",
    }
    texts = {name: f"{value:.2f}" if isinstance(value, float) else str(value) for name, value in values.items()}
    lines = [f"  {name:<30}{text:>10} {notes.get(name, '')}".rstrip() for name, text in texts.items()]
    given = ", of p(x|y)" if cfg.get("conditional", False) else ""
    title = f"  test metrics{given}, in nats per image, over {images:,} images"
    log.info("\n".join(["", title, *lines, "", os.path.relpath(folder)]))
    try:
        evaluated = read_summary(folder)  # vae.evaluate may have added to it
    except UserError as error:
        log.warning(f"{one_line(error)}; it is written again")
        evaluated = {}
    write_summary(evaluated | test_metrics, folder)


def write_summary(values: dict[str, float], folder: Path) -> None:
    """Write <folder>/summary.json."""
    atomic_write(json.dumps(values, indent=2) + "\n", folder / "summary.json")


def prepare_resume(cfg: DictConfig, module: VAEModule, history: MetricsCSV, folder: Path) -> Path | None:
    """Return the checkpoint to continue from, if any, and drop the rows of metrics.csv that come after it.

    Raises UserError if the checkpoint does not match the model, or if a new run would overwrite another.
    """
    checkpoint = checkpoint_to_resume(folder) if cfg.resume else None
    if not checkpoint:
        rank_zero_only(check_is_new)(folder)
        return None
    if checkpoint.name != LAST:
        log.warning(f"{LAST} is missing or damaged; resuming from {checkpoint.name}")
    history.drop_rows_after(checkpoint_step(module, checkpoint))
    return checkpoint


def limit_batches(cfg: DictConfig, data: ImageDataModule) -> dict[str, Any]:
    """Limit the training batches in the data module, because several of them are one for Lightning.

    Returns the arguments of Lightning's Trainer that then follow.
    """
    overfit = cfg.trainer.get("overfit_batches", 0)
    data.overfit = bool(overfit)
    data.train_batches = overfit or cfg.trainer.get("limit_train_batches", 1.0)
    limit_val_batches = overfit or cfg.trainer.get("limit_val_batches", 1.0)
    return {"limit_train_batches": 1.0, "overfit_batches": 0, "limit_val_batches": limit_val_batches}


def build_trainer(
    cfg: DictConfig, data: ImageDataModule, module: VAEModule, history: MetricsCSV, best: NamedCheckpoint, folder: Path
) -> Trainer:
    """Build the Trainer and its callbacks. Raises UserError if the machine does not support what the config asks."""

    def report(*_: Any) -> None:  # before the pictures, which may take a while
        metrics = {name: x for name, x in module.latest_metrics.items() if name.startswith("test/")}
        report_test(metrics, module.test_metrics.means.images, cfg, folder)

    shutdown = GracefulShutdown(folder / "checkpoints" / LAST)
    trainer: Trainer = instantiate(
        cfg.trainer,
        **limit_batches(cfg, data),
        default_root_dir=folder,
        devices=cfg.trainer.get("devices", 1),
        logger=history,
        callbacks=[
            *acceleration_callbacks(cfg, shutdown),
            *([WeightAverage(cfg.ema)] if cfg.get("ema") else []),
            Progress(),
            LambdaCallback(on_test_end=report),
            Pictures(folder / "figures", history),
            Film(folder / "film"),
            best,
            NamedCheckpoint(folder / "checkpoints", "last", every_n_epochs=1),
            shutdown,
            ResumableEarlyStopping("val/objective", cfg.patience or sys.maxsize),
            *map(instantiate, [*cfg.trainer.get("callbacks", []), *cfg.get("callbacks", {}).values()]),
        ],
        plugins=LightningEnvironment(),  # otherwise Lightning would follow Slurm's or torchrun's variables
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # VAEModule logs every cfg.log_every_n_steps
    )
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    return trainer


def train(cfg: DictConfig, folder: Path) -> None:
    """Train the model, test its best epoch, and write everything to `folder`."""
    seed_everything(cfg.seed, verbose=False)
    data = load_dataset(cfg, folder)
    choose_likelihood(cfg, data, folder)
    images = len(data.images["train"].pixels)
    module = build(cfg, data.shape, len(data.label_values), images)
    check_support(module, data, cfg)
    check_keys(module)
    check_parts(module, data, cfg.latent_dim)
    history = MetricsCSV(folder)
    best = NamedCheckpoint(folder / "checkpoints", "best", monitor="val/objective", mode="max", save_weights_only=True)
    trainer = build_trainer(cfg, data, module, history, best, folder)
    resume_from = prepare_resume(cfg, module, history, folder)
    if trainer.is_global_zero:
        store_changes(cfg, folder)
        write_run_data(data, folder)
        trainer.loggers += build_loggers(cfg, folder)

    size = sum(parameter.numel() for parameter in module.parameters())
    log.info(f"{size:,} parameters, {images:,} training images; {os.path.relpath(folder)}")
    torch.set_float32_matmul_precision(cfg.get("matmul_precision", "highest"))
    gc.enable()  # train.py disables it
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {one_line(error)}") from None
    finally:
        torch.set_float32_matmul_precision("highest")
    if not best.best_model_path:  # best.ckpt was lost, and no epoch remained
        trainer.save_checkpoint(folder / "checkpoints" / BEST, weights_only=True)
    trainer.test(module, datamodule=data, ckpt_path=best.best_model_path or None, weights_only=True, verbose=False)


def run(cfg: DictConfig, folder: Path) -> None:
    """Train and test in `folder`, then finish the W&B run with the exit code, also after an error.

    If cfg.resume is set (to `folder`), training continues from its last checkpoint.
    """
    code: Any = 1
    try:
        train(cfg, folder)
        code = 0
    except SystemExit as error:
        code = error.code
        raise
    finally:
        finish_wandb(code)
