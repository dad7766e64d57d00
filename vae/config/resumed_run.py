"""The keys of a run that may be changed when it is resumed. Nothing here imports torch."""

from collections.abc import Iterable, Iterator

from omegaconf import DictConfig, OmegaConf

from vae.config.overrides import PLACE_KEYS
from vae.config.stored_config import use_own_places
from vae.errors import UserError

SCHEDULES = "; the schedules, as of the learning rate, now extend over the new length, from where the training is in it"
# What a change means.
CHANGEABLE = {
    "trainer.max_epochs": SCHEDULES,
    "trainer.max_steps": SCHEDULES,
    "optimizer.lr": "; the schedule of the learning rate multiplies the new value",
    "patience": "",
    "dataset.path": "",  # of the same images
    **dict.fromkeys(PLACE_KEYS, ""),
}


def is_changeable(argument: str) -> bool:
    """Return whether an argument beside resume= is one that may be changed."""
    return argument.partition("=")[0] in CHANGEABLE


def change_config(stored: DictConfig, given: DictConfig, arguments: Iterable[str]) -> Iterator[str]:
    """Set the keys of these arguments in the config of a run to their values in `given`. Yield a line for each.

    Without trust=true in `given`, the run does not decide what is written to. Raises UserError for a key that it lacks.
    """
    typed = [argument.lstrip("+").partition("=")[0] for argument in arguments]
    if "trust" not in given:
        yield from (line for line in use_own_places(stored) if line.partition("=")[0] not in typed)
    for key in filter(CHANGEABLE.__contains__, typed):
        parent, _, name = key.rpartition(".")
        if name not in (OmegaConf.select(stored, parent) or () if parent else stored):
            raise UserError(f"{key}={OmegaConf.select(given, key)}: the config of this run has no such key")
        old, new = OmegaConf.select(stored, key), OmegaConf.select(given, key)
        if new != old:
            OmegaConf.update(stored, key, new)
            yield f"{key}={new} instead of {old}{CHANGEABLE[key]}"
