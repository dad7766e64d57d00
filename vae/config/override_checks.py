"""Check the arguments of train.py, before a sweep starts or where Hydra refuses them. Nothing here imports torch."""

import itertools
import re
import shlex
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path

from hydra import compose
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from vae.config.command_line import choices, command, dotted_keys, initialize_conf
from vae.config.config_dirs import SEARCH_PATH, config_dirs
from vae.config.overrides import (
    FOLDER_KEYS,
    OPTIONAL_GROUPS,
    PLACE_KEYS,
    check_sweep,
    guess_key,
    override_values,
    parse_override,
)
from vae.config.schema import CONF
from vae.config.yaml_files import read_yaml
from vae.errors import UserError, did_you_mean

RECIPE = re.compile(rb"(\s*#.*\n)*?\s*#\s*@package\s+_global_")  # a comment before the first key


def groups_with(child: str, parent: str) -> list[str]:
    """Return the choices of a group that have a group of this name inside them, such as objectives with a schedule."""
    return [
        choice
        for choice in choices(parent)
        if any(
            child in entry
            for entry in (read_yaml(CONF / parent / f"{choice}.yaml", aliases=True) or {}).get("defaults", [])
            if isinstance(entry, dict)
        )
    ]


def keys_of(overrides: Sequence[str]) -> set[str]:
    """Return all keys of the config with these choices. Raises UserError if a choice needs another one."""
    try:
        return dotted_keys(compose("config", list(overrides)))
    except HydraException as error:
        for override in overrides:
            parent, _, child = override.partition("=")[0].rpartition("/")
            if parent and f"Could not override '{parent}/{child}'" in str(error):
                having = ", ".join(groups_with(child, parent))
                raise UserError(
                    f"{override}: the chosen {parent} has no {child}; those with one are {having}"
                ) from None
        raise


def check_choice(group: str, name: str, folders: Sequence[Path]) -> None:
    """Raise UserError for an unknown choice, and for a recipe that is empty or does not set keys of the root."""
    allowed = choices(group, folders)
    if name not in allowed:
        raise UserError(f"{group}={name}: expected one of {', '.join(allowed)}{did_you_mean(name, allowed)}")
    if group in OPTIONAL_GROUPS:
        path = next(path for folder in folders if (path := folder / group / f"{name}.yaml").exists())
        if not read_yaml(path, aliases=True):
            raise UserError(f"{path}: line 1: empty; expected keys and values")
        content = path.read_bytes()
        if content.startswith(BOM_UTF8):  # with it, Hydra does not see the package
            raise UserError(f"{path}: line 1: expected a file without a byte order mark")
        if not RECIPE.match(content):
            raise UserError(f"{path}: line 1: expected the comment # @package _global_ before the first key")


def check_override(override: Override) -> None:
    """Raise UserError if this override alone is wrong: its value is not of the kind that its key needs."""
    if not override.key_or_group:
        raise UserError(f"{override.input_line}: expected a key before the equals sign")
    if override.key_or_group == "resume":
        raise UserError(f"{override.input_line}: expected resume=FOLDER and no other argument")
    if override.key_or_group in PLACE_KEYS and override.is_sweep_override():
        raise UserError(f"{override.input_line}: expected the same place for all runs of a sweep")
    if override.key_or_group in FOLDER_KEYS and override.value() in ("", None):
        raise UserError(f"{override.input_line}: expected a folder")
    place, _, position = override.key_or_group.rpartition(".")
    if changes(override) and position.isdecimal():
        raise UserError(f"{override.input_line}: expected the whole list, {place}=[...]")
    group, value = override.key_or_group, override.value()
    if override.is_delete():
        names_choice = value is None or isinstance(value, str)
    else:
        names_choice = override.is_sweep_override() or isinstance(value, str | list)
    adds_or_deletes = override.is_add() or override.is_delete()
    if not names_choice and ("/" in group or (adds_or_deletes and choices(group))):
        raise UserError(f"{override.input_line}: expected the name of a choice")


def choices_by_group(overrides: Sequence[Override], folders: Sequence[Path]) -> dict[str, list[str]]:
    """Return the choices that overrides make, by group: several in a sweep."""
    return {o.key_or_group: override_values(o) for o in overrides if changes(o) and choices(o.key_or_group, folders)}


def changes(override: Override) -> bool:
    """Return whether an override changes a key or a choice that the config has."""
    return not (override.is_delete() or override.is_add() or override.is_force_add() or override.is_hydra_override())


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError if an override is wrong by itself: its value, or a choice that does not exist."""
    parsed, folders = list(map(parse_override, overrides)), config_dirs(overrides)
    for override in parsed:
        check_override(override)
    for group, names in choices_by_group(parsed, folders).items():
        for name in names:
            for each in name.strip("[]").split(","):  # logger=[wandb,tensorboard]
                check_choice(group, each, folders)


def check_keys(overrides: Sequence[str], multirun: bool = False) -> None:
    """Raise UserError if an override names a key that the config with these choices lacks, or if a sweep cannot start.

    It composes the config, which takes a quarter of a second, so a single run is checked only if Hydra refuses it.
    """
    parsed, folders = list(map(parse_override, overrides)), config_dirs(overrides)
    search_path = [override for override in overrides if override.startswith(SEARCH_PATH)]
    chosen = choices_by_group(parsed, folders)
    first = [f"{group}={names[0]}" for group, names in chosen.items() if names]
    with initialize_conf(folders):
        keys = dict.fromkeys(first or [""], keys_of([*search_path, *first]))
        others = [f"{group}={name}" for group, names in chosen.items() for name in names[1:]]
        keys |= {choice: keys_of([*search_path, *first, choice]) for choice in others}
        if multirun:
            hydra_overrides = [o.input_line or "" for o in parsed if o.is_hydra_override()]
            check_sweep(compose("config", [*first, *hydra_overrides], return_hydra_config=True))
    for key in (o.key_or_group for o in parsed if changes(o) and o.key_or_group not in chosen):
        if not any(key in known for known in keys.values()):
            guess = guess_key(key, set.union(*keys.values()))
            raise UserError(f"{key}: no such key{guess} ({command()} --help lists the keys)")
    check_swept_choices(parsed, chosen, keys)


def check_swept_choices(overrides: Sequence[Override], chosen: dict[str, list[str]], keys: dict[str, set[str]]) -> None:
    """Raise UserError if some choices of a sweep lack a key. The message has sweeps in which each choice has its keys.

    `chosen` are the choices by group, and `keys` the keys by choice, such as prior=flow.
    """
    typed = {o.key_or_group for o in overrides} - set(chosen)
    parts: dict[str, dict[frozenset[str], list[str]]] = {}  # by group: the choices by the keys that they lack
    for group, names in chosen.items():
        for name in names:
            swept = {key for key in typed if any(key in keys[f"{group}={other}"] for other in names)}
            parts.setdefault(group, {}).setdefault(frozenset(swept - keys[f"{group}={name}"]), []).append(name)
    lacking = [
        f"{min(lacked)}: {group}={','.join(names)} has no such key"
        for group, part in parts.items()
        for lacked, names in part.items()
        if lacked
    ]
    if not lacking:
        return
    sweeps = []
    for combination in itertools.product(*(part.items() for part in parts.values())):
        left_out = frozenset().union(*(lacked for lacked, _ in combination))
        choice = {group: f"{group}={','.join(names)}" for group, (_, names) in zip(parts, combination, strict=True)}
        kept = [choice.get(o.key_or_group, o.input_line or "") for o in overrides if o.key_or_group not in left_out]
        sweeps.append(shlex.join([*command().split(), "-m", *kept]))
    raise UserError(f"{lacking[0]}; run {' && '.join(sweeps)}")
