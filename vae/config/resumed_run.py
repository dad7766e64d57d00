"""The keys of a run that may be changed when it is resumed. Nothing here imports torch."""

from collections.abc import Iterable, Iterator

from omegaconf import DictConfig, OmegaConf

SCHEDULES = "; the schedules, as of the learning rate, now extend over the new length, from where the training is in it"
# What a change means.
CHANGEABLE = {
    "trainer.max_epochs": SCHEDULES,
    "trainer.max_steps": SCHEDULES,
    "optimizer.lr": "; the schedule of the learning rate multiplies the new value",
    "patience": "",
}


def is_changeable(argument: str) -> bool:
    """Return whether an argument beside resume= is one that may be changed."""
    return argument.partition("=")[0] in CHANGEABLE


def change_config(stored: DictConfig, given: DictConfig, arguments: Iterable[str]) -> Iterator[str]:
    """Set the keys of these arguments in the config of a run to their values in `given`. Yield a line for each."""
    for key in filter(CHANGEABLE.__contains__, (argument.partition("=")[0] for argument in arguments)):
        old, new = OmegaConf.select(stored, key), OmegaConf.select(given, key)
        if new != old:
            OmegaConf.update(stored, key, new)
            yield f"{key}={new} instead of {old}{CHANGEABLE[key]}"
