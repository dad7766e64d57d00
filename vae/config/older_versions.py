"""Read the runs of older versions: translate names in their configs, command lines and checkpoints."""

from typing import Any

MODULES = {  # old and present modules of the classes in configs
    "vae.likelihoods": "vae.model.likelihoods",
    "vae.posteriors": "vae.model.posteriors",
    "vae.priors": "vae.model.priors",
    "vae.objectives": "vae.model.objectives",
    "vae.networks": "vae.model.networks",
    "vae.schedules": "vae.training.schedules",
    "vae.sweep": "vae.training.sweep",
    "vae.loggers": "vae.tracking.wandb_run",
    "vae.tracking.loggers": "vae.tracking.wandb_run",
}
CLASSES = {"PowersOfThree": "BurdaSchedule"}
KEYS = {
    "likelihood.widest": "likelihood.max_scale",
    "likelihood.paper": "likelihood.background",
    "objective.nats": "objective.free_bits",
}
WANDB_KEYS = {
    f"logger.{key}"
    for key in ("project", "group", "tags", "notes", "log_model", "save_dir", "timeout", "finish_timeout")
}
OVERRIDES = {
    "experiment=livestream": "experiment=lesson",
    "experiment=manifold": "latent_dim=2",
    "optimizer/schedule=powers_of_three": "optimizer/schedule=burda2015",
}
CALLBACKS = {"Kept": "NamedCheckpoint", "Patience": "ResumableEarlyStopping"}


def current_target(target: str) -> str:
    """Return the present name of a class, such as vae.model.priors.Flow for vae.priors.Flow."""
    module, _, name = target.rpartition(".")
    return f"{MODULES[module]}.{CLASSES.get(name, name)}" if module in MODULES else target


def current_config(config: dict[str, Any]) -> dict[str, Any]:
    """Rename classes and keys of a run's config to their present names, in place; return the config."""
    for old, new in KEYS.items():
        group, _, key = old.partition(".")
        part = config.get(group)
        if isinstance(part, dict) and key in part:
            part[new.partition(".")[2]] = part.pop(key)
    trainer, logger = config.get("trainer"), config.get("logger")
    if isinstance(trainer, dict) and "LightningEnvironment" in str(trainer.get("plugins")):
        trainer.pop("plugins")
    if isinstance(logger, dict) and "_target_" in logger:
        config["logger"] = {"wandb": logger}
    _rename_targets(config)
    return config


def _rename_targets(node: dict[str, Any]) -> None:
    for key, value in node.items():
        if key == "_target_" and isinstance(value, str):
            node[key] = current_target(value)
        elif isinstance(value, dict):
            _rename_targets(value)


def current_override(override: str) -> str:
    """Return a key=value argument with the present name of its key or of its choice."""
    override = OVERRIDES.get(override, override)
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    new = KEYS.get(name, f"logger.wandb.{name[7:]}" if name in WANDB_KEYS else name)
    return key.replace(name, new) + equals + value


def current_choices(choices: dict[str, str]) -> dict[str, str]:
    """Return the choices of config groups with their present names, without a choice that is now a key."""
    overrides = [(group, current_override(f"{group}={choice}")) for group, choice in choices.items()]
    return {group: new.removeprefix(f"{group}=") for group, new in overrides if new.startswith(f"{group}=")}


def rename_callbacks(checkpoint: dict[str, Any]) -> None:
    """Rename the callback states in a checkpoint to the present class names, in place."""
    states: dict[str, Any] = checkpoint.get("callbacks", {})
    for key in list(states):
        name = next((old for old in CALLBACKS if key.startswith(old)), None)
        if name:
            states[CALLBACKS[name] + key.removeprefix(name)] = states.pop(key)
