"""One run: from the config to a trained and tested model in its folder."""

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from vae.callbacks import CleanStop, Pictures, Progress
from vae.config import UserError, run_name
from vae.loggers import MetricsCSV, finish
from vae.model import VAE
from vae.module import VAEModule

log = logging.getLogger(__name__)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`")  # Lightning 2.6 on torch 2.15


def build(cfg: DictConfig, shape: tuple[int, int, int]) -> VAEModule:
    """The model for images of this shape. Past this function nothing of a model sees cfg."""
    likelihood = instantiate(cfg.likelihood)
    encoder = instantiate(cfg.architecture.encoder, shape=shape)
    decoder = instantiate(cfg.architecture.decoder, shape=shape, params_per_pixel=likelihood.params_per_pixel)
    vae = VAE(encoder, decoder, likelihood, prior=instantiate(cfg.prior))
    optimizer = {key: value for key, value in cfg.optimizer.items() if key != "schedule"}
    return VAEModule(
        vae,
        objective=instantiate(cfg.objective),
        optimizer=instantiate(optimizer),
        schedule=instantiate(cfg.optimizer.schedule),
        seed=cfg.seed,
        log_every_n_steps=cfg.log_every_n_steps,
        K=cfg.test.K,
        images=cfg.test.images,
    )


def loggers(cfg: DictConfig, folder: Path) -> list[Any]:
    """metrics.csv, always, and the tracker of the config, which is given the whole config."""
    trackers = []
    if "_target_" in cfg.logger:
        overrides = [str(o) for o in OmegaConf.load(folder / ".hydra" / "overrides.yaml")]
        tracker = instantiate(cfg.logger, run_dir=folder, name=run_name(overrides))
        tracker.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
        trackers.append(tracker)
    return [MetricsCSV(folder), *trackers]


def run(cfg: DictConfig, folder: Path) -> dict[str, float]:
    """Train, test the best epoch once, and leave everything in `folder`; the figures of summary.json.

    With cfg.resume, which is `folder` itself, the training goes on from its last checkpoint.
    """
    code: Any = 1
    try:
        summary = train(cfg, folder)
        code = 0
        return summary
    except SystemExit as stop:
        code = stop.code
        raise
    finally:
        finish(code)


def report(summary: dict[str, float], folder: Path) -> None:
    """The test as a small table on the screen, and as summary.json."""
    values = {name.removeprefix("test/"): value for name, value in summary.items()}
    lines = [f"  {name:<16}{value:>10.2f}" for name, value in values.items()]
    log.info("\n".join(["", "test, in nats per image", *lines, "", os.path.relpath(folder)]))
    part = folder / "summary.json.part"
    part.write_text(json.dumps(summary, indent=2) + "\n")
    part.replace(folder / "summary.json")


def train(cfg: DictConfig, folder: Path) -> dict[str, float]:
    """What `run` does, without the tracker's end."""
    seed_everything(cfg.seed, verbose=False)
    data = instantiate(cfg.dataset)
    data.prepare_data()
    data.setup()
    module = build(cfg, data.shape)
    likelihood: Any = module.vae.likelihood
    if not likelihood.support.check(data.x("val")).all():
        raise UserError(
            f"likelihood: {type(likelihood).__name__} is no distribution over these pixels"
            f" (dataset.binarize={cfg.dataset.binarize}); expected one whose support holds them"
        )

    history, *trackers = loggers(cfg, folder)
    checkpoints = folder / "checkpoints"
    best = ModelCheckpoint(
        checkpoints,
        "best",
        monitor="val/elbo",
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(checkpoints, "last", every_n_epochs=1, save_top_k=1, enable_version_counter=False)
    resumed = checkpoints / "last.ckpt" if cfg.resume else None
    if resumed:
        history.resume_from(torch.load(resumed, weights_only=True)["global_step"])
    trainer: Trainer = instantiate(
        cfg.trainer,
        default_root_dir=folder,
        logger=[history, *trackers],
        callbacks=[
            Progress(),
            Pictures(folder / "figures", history),
            best,
            last,
            CleanStop(checkpoints / "last.ckpt"),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # of what the module records, every cfg.log_every_n_steps
    )

    size = sum(p.numel() for p in module.parameters())
    log.info(f"{size:,} parameters, {len(data.images['train'].pixels):,} images; {os.path.relpath(folder)}")
    trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
    trainer.test(module, datamodule=data, ckpt_path=best.best_model_path or None, weights_only=True, verbose=False)

    summary = {name: value for name, value in module.latest.items() if name.startswith("test/")}
    report(summary, folder)
    return summary
