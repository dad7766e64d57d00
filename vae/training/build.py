"""Build the model of a run from its config, and load its weights."""

from inspect import signature
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vae.errors import UserError
from vae.model.likelihoods import Likelihood
from vae.model.networks import ConditionalDecoder, ConditionalEncoder
from vae.model.objectives import Objective
from vae.model.posteriors import Posterior
from vae.model.vae import VAE
from vae.runs.checkpoint_files import BEST, is_intact
from vae.training.lightning_module import VAEModule

# what loading a damaged checkpoint may raise
CHECKPOINT_ERRORS = (OSError, RuntimeError, EOFError, KeyError, TypeError, UnpicklingError)


def create(cfg: DictConfig, key: str, base: type, **arguments: Any) -> Any:
    """Create the part of this key. Raises UserError if its class is not a subclass of `base`."""
    part = instantiate(OmegaConf.select(cfg, key), **arguments)
    if not isinstance(part, base):
        raise UserError(f"{key}: {type(part).__name__} is not a subclass of {base.__name__}")
    return part


def build(cfg: DictConfig, shape: tuple[int, int, int], labels: int = 0, N: int = 1) -> VAEModule:
    """Build the model for N training images of this shape, (C, H, W), and this number of labels, if it is conditional.

    The classes it creates never see cfg. In a conditional model, the encoder sees one more channel, and the decoder
    more latents. The classifier of a semi-supervised model is another encoder, if the architecture has none.
    """
    posterior = create(cfg, "posterior", nn.Module)
    if not isinstance(outputs := getattr(posterior, "outputs", None), int):
        expected = "expected the number of values that it needs from the encoder"
        raise UserError(f"posterior: {type(posterior).__name__}.outputs is {outputs}; {expected}")
    likelihood = create(cfg, "likelihood", Likelihood, **label_arguments(cfg.likelihood, labels))
    likelihood.build(shape[0])
    seen = (shape[0] + bool(labels), *shape[1:])
    encoder = create(cfg, "architecture.encoder", nn.Module, shape=seen, outputs=outputs)
    decoder = create(
        cfg,
        "architecture.decoder",
        nn.Module,
        shape=shape,
        h_channels=likelihood.h_channels(shape[0]),
        **label_arguments(cfg.architecture.decoder, labels),
    )
    if isinstance(posterior, Posterior):
        posterior.build(decoder)
    decoder = likelihood.wrap_decoder(decoder)
    prior = create(cfg, "prior", nn.Module, shape=shape, **({"labels": labels} if labels else {}))
    if labels:
        encoder, decoder = ConditionalEncoder(encoder, labels, shape), ConditionalDecoder(decoder)
        encoder = posterior.wrap_encoder(encoder) if isinstance(posterior, Posterior) else encoder
    classifier = None
    if "labelled" in cfg.objective:
        network = "architecture.classifier" if "classifier" in cfg.architecture else "architecture.encoder"
        classifier = create(cfg, network, nn.Module, shape=shape, outputs=labels)
    noise = create(cfg, "noise", nn.Module) if "noise" in cfg else None  # older runs lack this key
    vae = VAE(encoder, posterior, decoder, likelihood, prior, classifier, noise)
    return VAEModule(
        vae=vae,
        objective=create(cfg, "objective", Objective),
        optimizer=instantiate({key: value for key, value in cfg.optimizer.items() if key != "schedule"}),
        schedule=instantiate(cfg.optimizer.schedule),
        gradient_clip_val=cfg.gradient_clip_val,
        seed=cfg.seed,
        log_every_n_steps=cfg.log_every_n_steps,
        K=cfg.test.K,
        images=cfg.test.images,
        labels=labels,
        N=N,
        skip_gradient_norm=cfg.get("skip_gradient_norm"),  # older runs lack this key
    )


def label_arguments(part: DictConfig, labels: int) -> dict[str, int]:
    """Return the arguments of a part of a conditional model that depend on the labels appended to its latents.

    `latent_dim`, if its config has this key, includes them. A class with an argument `labels` gets their number.
    """
    if not labels:
        return {}
    arguments = {"latent_dim": part.latent_dim + labels} if "latent_dim" in part else {}
    return arguments | ({"labels": labels} if "labels" in signature(get_object(part._target_)).parameters else {})


def load_trained(cfg: DictConfig, shape: tuple[int, int, int], folder: Path, labels: int = 0, N: int = 1) -> VAEModule:
    """Load the model of the run in `folder` with the weights of its best epoch.

    It is on the GPU if the config asks for one and one is available. Raises UserError if the checkpoint is damaged.
    """
    module = build(cfg, shape, labels, N)
    gpu = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    path = folder / "checkpoints" / BEST
    if not is_intact(path):
        raise UserError(f"run={folder}: {path} is damaged")
    try:
        module.load_state_dict(torch.load(path, weights_only=True, map_location=device)["state_dict"])
    except CHECKPOINT_ERRORS:
        raise UserError(f"run={folder}: {path} is damaged or does not match the run's config") from None
    return module.to(device).eval()
