"""Names that older versions used in the configs, command lines and checkpoints of their runs."""

from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

MODULES = {  # where classes were in 0.1
    "vae.likelihoods": "vae.model.likelihoods",
    "vae.posteriors": "vae.model.posteriors",
    "vae.priors": "vae.model.priors",
    "vae.objectives": "vae.model.objectives",
    "vae.networks": "vae.model.networks",
    "vae.schedules": "vae.training.schedules",
    "vae.sweep": "vae.training.sweep",
    "vae.loggers": "vae.tracking.loggers",
}
CLASSES = {"PowersOfThree": "BurdaSchedule"}
KEYS = {
    "likelihood.widest": "likelihood.max_scale",
    "likelihood.paper": "likelihood.background",
    "objective.nats": "objective.free_bits",
}
OVERRIDES = {
    "experiment=livestream": "experiment=lesson",
    "experiment=manifold": "latent_dim=2",
    "optimizer/schedule=powers_of_three": "optimizer/schedule=burda2015",
}
CALLBACKS = {"Kept": "NamedCheckpoint", "Patience": "ResumableEarlyStopping"}


def current_target(target: str) -> str:
    """The present name of a class, such as vae.model.priors.Flow for vae.priors.Flow."""
    module, _, name = target.rpartition(".")
    return f"{MODULES[module]}.{CLASSES.get(name, name)}" if module in MODULES else target


def current_config(cfg: DictConfig) -> DictConfig:
    """The config of a run with the present names of classes and keys. `cfg` is changed, and returned."""
    with open_dict(cfg):
        for old, new in KEYS.items():
            group, _, key = old.partition(".")
            if isinstance(cfg.get(group), DictConfig) and key in cfg[group]:
                OmegaConf.update(cfg, new, cfg[group].pop(key))
        _rename_targets(cfg)
    return cfg


def _rename_targets(node: DictConfig) -> None:
    for key, value in node.items_ex(resolve=False):
        if key == "_target_" and isinstance(value, str):
            node[key] = current_target(value)
        elif isinstance(value, DictConfig):
            _rename_targets(value)


def current_override(override: str) -> str:
    """A key=value argument with the present name of the key or of the choice."""
    override = OVERRIDES.get(override, override)
    key, equals, value = override.partition("=")
    plain = key.lstrip("+~")
    return key.replace(plain, KEYS.get(plain, plain)) + equals + value


def rename_callbacks(checkpoint: dict[str, Any]) -> None:
    """Give the states of callbacks in a checkpoint their present names."""
    states: dict[str, Any] = checkpoint.get("callbacks", {})
    for key in list(states):
        name = next((old for old in CALLBACKS if key.startswith(old)), None)
        if name:
            states[CALLBACKS[name] + key.removeprefix(name)] = states.pop(key)
