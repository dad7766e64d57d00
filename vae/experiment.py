"""One run: from the config to a trained and tested model in its folder."""

import gc
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.utilities import rank_zero_only

from datamodules.base import ImageDataModule, Images
from vae.callbacks import CapturedSteps, CleanStop, CompiledLater, CompiledSteps, Kept, Patience, Pictures, Progress
from vae.command_line import run_name
from vae.compiled import attempt, check_compiler
from vae.config import UserError
from vae.loggers import MetricsCSV, finish
from vae.machine import prepare
from vae.model import VAE
from vae.module import VAEModule
from vae.runs import write

prepare()

log = logging.getLogger(__name__)
for talkative in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(talkative).setLevel(logging.WARNING)
for needless in (r"`isinstance\(treespec, LeafSpec\)`", "Checkpoint directory .* exists and is not empty"):
    warnings.filterwarnings("ignore", needless)

UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, TypeError, UnpicklingError)  # what a damaged checkpoint raises


def build(cfg: DictConfig, shape: tuple[int, int, int]) -> VAEModule:
    """The model for images of this shape. Past this function nothing of a model sees cfg."""
    posterior, likelihood = instantiate(cfg.posterior), instantiate(cfg.likelihood)
    likelihood.build(shape[0])
    encoder = instantiate(cfg.architecture.encoder, shape=shape, outputs=posterior.outputs)
    decoder = instantiate(cfg.architecture.decoder, shape=shape, maps=likelihood.maps(shape[0]))
    vae = VAE(encoder, posterior, likelihood.decoder(decoder), likelihood, prior=instantiate(cfg.prior, shape=shape))
    return VAEModule(
        vae,
        objective=instantiate(cfg.objective),
        optimizer=instantiate({key: value for key, value in cfg.optimizer.items() if key != "schedule"}),
        schedule=instantiate(cfg.optimizer.schedule),
        gradient_clip_val=cfg.gradient_clip_val,
        seed=cfg.seed,
        log_every_n_steps=cfg.log_every_n_steps,
        K=cfg.test.K,
        images=cfg.test.images,
    )


def restored(cfg: DictConfig, shape: tuple[int, int, int], folder: Path) -> VAEModule:
    """The model of a run in `folder`, with the weights of its best epoch, on its kind of device if there is one."""
    module = build(cfg, shape)
    gpu = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    path = folder / "checkpoints" / "best.ckpt"
    try:
        module.load_state_dict(torch.load(path, weights_only=True, map_location=device)["state_dict"])
    except UNREADABLE:
        raise UserError(f"run={folder}: {path} is damaged, or of another model than its config's") from None
    return module.to(device).eval()


LOADED: dict[str, dict[str, Images]] = {}  # what was loaded in this process: the jobs of a sweep have it in common


def load(cfg: DictConfig) -> ImageDataModule:
    """The dataset of the config, in memory."""
    data = instantiate(cfg.dataset)
    same = {key: value for key, value in cfg.dataset.items() if key not in ("batch_size", "seed")}
    data.images = LOADED.setdefault(f"{os.getcwd()} {same}", data.images)
    while len(LOADED) > 4:
        del LOADED[next(iter(LOADED))]
    data.prepare_data()
    data.setup()
    return data


def check_support(module: VAEModule, data: ImageDataModule, cfg: DictConfig) -> None:
    """Raise UserError where the likelihood is no distribution over the pixels it would be given."""
    likelihood: Any = module.vae.likelihood
    if not likelihood.support.check(data.x("val")).all():
        raise UserError(
            f"likelihood: {type(likelihood).__name__} is no distribution over these pixels"
            f" (dataset.binarize={cfg.dataset.binarize}); expected one whose support holds them"
        )


def check_parts(module: VAEModule, data: ImageDataModule) -> None:
    """Raise UserError, from what refuses, where posterior, prior and objective do not go together."""
    with torch.random.fork_rng():
        for key, call in {
            "objective": lambda: module.values(data.x("val", slice(2)), module.objective.weight(0.0)),
            "optimizer": lambda: module.optimizer(module.vae.parameters()),
            "optimizer.schedule": lambda: module.schedule(0.0),
        }.items():
            try:
                call()
            except TypeError as error:  # a recipe's key that the class chosen in place of the recipe's does not have
                raise UserError(f"{key}: {error}; ~{key}.KEY takes a key away") from None


def compiled_or_captured(cfg: DictConfig, stop: CleanStop) -> list[Callback]:
    """What compiles or captures a training's steps; UserError where this machine or the trainer cannot."""
    accelerator, processes = cfg.trainer.accelerator, cfg.trainer.get("devices", 1)
    gpu = accelerator in ("gpu", "cuda")
    if gpu and not torch.accelerator.is_available():
        raise UserError(f"trainer.accelerator={accelerator}: no GPU was found; expected cpu")
    compiles, captures = cfg.get("compile"), cfg.get("cuda_graph")  # which runs of older versions do not have
    precision = cfg.trainer.get("precision")
    full = precision in (None, 32, "32", "32-true")
    if (compiles is True or captures) and not full:
        raise UserError(f"trainer.precision={precision}: expected 32-true with compile=true or cuda_graph=true")
    chosen: list[Callback] = []
    if compiles == "auto" and accelerator == "cpu" and processes == 1 and full:
        chosen.append(CompiledLater(stop))
    elif compiles is True:
        if processes > 1:
            raise UserError(f"compile=true: expected a training in one process, and trainer.devices is {processes}")
        attempt(check_compiler, True)  # before W&B has a run of it
        chosen.append(CompiledSteps())
    if captures:
        if not (gpu and processes == 1 and torch.cuda.is_available()):
            given = f"trainer.accelerator={accelerator} and trainer.devices={processes}"
            raise UserError(f"cuda_graph=true: expected one GPU of NVIDIA's, as with trainer=gpu, and not {given}")
        chosen.append(CapturedSteps())
    return chosen


def tracker(cfg: DictConfig, folder: Path) -> list[Any]:
    """The logger of the config, if it is one, started and given the whole config; runs of a sweep are a group."""
    if "_target_" not in cfg.logger:
        return []
    overrides = [str(override) for override in OmegaConf.load(folder / ".hydra" / "overrides.yaml")]
    hydra = OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra
    about: dict[str, Any] = {"job_type": "train", "name": run_name(overrides)}
    if hydra.mode == "MULTIRUN":
        known = folder.parent / "sweep.json"
        line = json.loads(known.read_text())["task"] if known.exists() else overrides
        swept = " ".join(override for override in overrides if override not in line)
        group = cfg.logger.group or Path(hydra.runtime.output_dir).parent.name
        about = {"job_type": "sweep", "name": swept or about["name"], "group": group}
    logger = instantiate(cfg.logger, run_dir=folder, **about)
    logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    return [logger]


def last_step(checkpoint: Path) -> int:
    """The optimiser steps a checkpoint has behind it; UserError if it cannot be read."""
    try:
        return torch.load(checkpoint, weights_only=True)["global_step"]
    except UNREADABLE:
        raise UserError(f"resume: {checkpoint} is damaged; expected a checkpoint of a run") from None


@rank_zero_only
def report(tested: dict[str, float], data: ImageDataModule, cfg: DictConfig, folder: Path) -> None:
    """The test as a small table on the screen, and as summary.json."""
    metric = {name.removeprefix("test/"): value for name, value in tested.items()}
    images = len(data.images["test"].pixels)
    scored = min(cfg.test.images or images, images)
    notes = {
        "log_px": f"+- {metric.pop('log_px_se', 0):.2f}  K = {cfg.test.K}, {scored:,} images",
        "active_units": f"of {cfg.latent_dim}",
    }
    shown = {name: f"{value:.2f}" if isinstance(value, float) else str(value) for name, value in metric.items()}
    lines = [f"  {name:<30}{value:>10} {notes.get(name, '')}".rstrip() for name, value in shown.items()]
    log.info("\n".join(["", f"  test, over {images:,} images; nats per image", *lines, "", os.path.relpath(folder)]))
    before = folder / "summary.json"
    write_summary((json.loads(before.read_text()) if before.exists() else {}) | tested, folder)


def write_summary(values: dict[str, float], folder: Path) -> None:
    """<folder>/summary.json."""
    write(json.dumps(values, indent=2) + "\n", folder / "summary.json")


def train(cfg: DictConfig, folder: Path) -> None:
    """Fit, test the best epoch once, and leave everything in `folder`."""
    seed_everything(cfg.seed, verbose=False)
    data = load(cfg)
    module = build(cfg, data.shape)
    check_support(module, data, cfg)
    check_parts(module, data)
    checkpoints, history = folder / "checkpoints", MetricsCSV(folder)
    stop = CleanStop(checkpoints / "last.ckpt")
    steps = compiled_or_captured(cfg, stop)
    resumed = checkpoints / "last.ckpt" if cfg.resume else None
    if resumed:
        history.resume_from(last_step(resumed))
    elif history.path.exists():
        raise UserError(f"hydra.run.dir={folder}: expected a folder without a run; resume= goes on with the one in it")
    best = Kept(checkpoints, "best", monitor="val/objective", mode="max", save_weights_only=True)
    trainer: Trainer = instantiate(
        cfg.trainer,
        default_root_dir=folder,
        devices=cfg.trainer.get("devices", 1),
        logger=history,
        callbacks=[
            *steps,
            Progress(),
            Pictures(folder / "figures", history),
            best,
            Kept(checkpoints, "last", every_n_epochs=1),
            stop,
            Patience("val/objective", patience=cfg.patience or sys.maxsize, mode="max", check_on_train_epoch_end=False),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # of what the module records, every cfg.log_every_n_steps
    )
    if trainer.is_global_zero:
        trainer.loggers += tracker(cfg, folder)

    size = sum(parameter.numel() for parameter in module.parameters())
    log.info(f"{size:,} parameters, {len(data.images['train'].pixels):,} images; {os.path.relpath(folder)}")
    torch.set_float32_matmul_precision(cfg.get("matmul_precision", "highest"))
    gc.enable()  # which train.py has off until here
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
    finally:
        torch.set_float32_matmul_precision("highest")
    trainer.test(module, datamodule=data, ckpt_path=best.best_model_path or None, weights_only=True, verbose=False)
    report({name: x for name, x in module.latest.items() if name.startswith("test/")}, data, cfg, folder)


def run(cfg: DictConfig, folder: Path) -> None:
    """`train`, with an end for the tracker however it ends.

    With cfg.resume, which is `folder` itself, the training goes on from its last checkpoint.
    """
    code: Any = 1
    try:
        train(cfg, folder)
        code = 0
    except SystemExit as stop:
        code = stop.code
        raise
    finally:
        finish(code)
