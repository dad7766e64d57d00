"""Parse and check command lines, and turn them into Hydra's. Nothing here imports torch."""

import hashlib
import itertools
import os
import re
import shlex
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vae.config.config_dirs import SEARCH_PATH, config_dirs, import_from_current_folder
from vae.config.overrides import (
    FOLDER_KEYS,
    OPTIONAL_GROUPS,
    PLACE_KEYS,
    check_sweep,
    guess_key,
    override_values,
    parse_override,
)
from vae.config.schema import CONF, Model, fields_by_key, validate_model
from vae.config.yaml_files import read_yaml
from vae.errors import USER_ERRORS, UserError, did_you_mean, one_line
from vae.process import prepare_process

PACKAGE = Path(__file__).parents[1]
RECIPE = re.compile(rb"(\s*#.*\n)*?\s*#\s*@package\s+_global_")  # a comment before the first key


class Values(yaml.SafeLoader):
    """Reads numbers, true, false, null, lists and texts. Dates and `no` are texts, and 1e-1 is a number."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}


for tag, pattern in {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "null": r"null|Null|NULL|~|",
}.items():
    Values.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), None)


def command(name: str = "train") -> str:
    """Return how a command is started: vae NAME, or python train.py and python -m vae.NAME if this process was."""
    started = Path(sys.argv[0])
    if started.name == "train.py" or started.is_relative_to(PACKAGE):
        return "python train.py" if name == "train" else f"python -m vae.{name}"
    return f"vae {name}"


def parse_arguments(model: type[Model], argv: Sequence[str]) -> Model:
    """Parse key=value arguments into a pydantic model. Raises UserError for an unknown key or a value out of range."""
    given, fields = {}, fields_by_key(model)
    for argument in argv:
        key, equals, value = argument.replace("--config-dir=", "config_dir=", 1).partition("=")
        if not equals:
            raise UserError(f"{argument}: expected key=value; the keys are {', '.join(fields)}")
        try:
            is_text = key in fields and fields[key].annotation is str
            given[key] = os.path.expanduser(value) if is_text else yaml.load(value, Values)
        except (yaml.YAMLError, ValueError, AttributeError, RecursionError):
            raise UserError(f"{argument}: cannot be parsed; expected a value or a list such as [a,b]") from None
    return validate_model(model, given)


def run_command(main: Callable[[Sequence[str]], int | None], help_text: str | None, interrupted: str) -> int:
    """Run `main` on the command line of `vae NAME` or `python -m vae.NAME` and return the exit code.

    -h or --help prints `help_text`, in which `python -m vae.NAME` is shown as it was typed. A user error is printed as
    one line, with exit code 2. Ctrl-C prints `interrupted`, with exit code 130.
    """
    prepare_process()
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(re.sub(r"python -m vae\.(\w+)", lambda typed: command(typed[1]), help_text or ""))
        return 0
    import_from_current_folder()
    try:
        return main(sys.argv[1:]) or 0
    except USER_ERRORS as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


def choices(group: str, folders: Sequence[Path] = (CONF,)) -> list[str]:
    """Return the choices of a config group. conf/sweep/ has none: its files are for `wandb sweep`."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml") if group != "sweep"})


def list_groups() -> str:
    """Return one line for each config group of train.py, with its choices."""
    folders = config_dirs(sys.argv[1:])
    groups = sorted({str(path.parent.relative_to(folder)) for folder in folders for path in folder.rglob("*.yaml")})
    found = {group: choices(group, folders) for group in groups if not group.startswith((".", "hydra/"))}
    return "".join(f"{group}: {', '.join(names)}\n" for group, names in found.items() if names)


def dotted_keys(cfg: DictConfig, prefix: str = "") -> set[str]:
    """Return all keys of a nested config in dotted form, such as optimizer.lr."""
    keys = set()
    for key, value in cfg.items_ex(resolve=False):
        keys.add(f"{prefix}{key!s}")
        if isinstance(value, DictConfig):
            keys |= dotted_keys(value, f"{prefix}{key!s}.")
    return keys


@contextmanager
def initialize_conf(folders: Sequence[Path] = (CONF,)) -> Iterator[None]:
    """Initialize Hydra with conf/ inside the block, and restore the Hydra instance of a running job afterwards.

    Raises UserError, which names the file, if one in these folders of configs is not UTF-8.
    """
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), job_name="train", version_base="1.3"):
            yield
    except UnicodeDecodeError:
        for path in sorted(path for folder in folders for path in folder.rglob("*.yaml")):
            read_yaml(path, aliases=True)
        raise
    finally:
        GlobalHydra.instance().hydra = running


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


def run_name(overrides: Sequence[str]) -> str:
    """Return the overrides that change the config, as one string; output and logging keys are left out.

    With choices that conf/ does not have, all are kept.
    """
    kept = [o for o in overrides if not o.startswith(("hydra", "logger", "data_dir"))]
    with initialize_conf():
        try:
            cfg = compose("config", kept)
        except HydraException:
            return " ".join(kept)
        for override in tuple(kept):
            with suppress(HydraException):  # the other overrides do not compose without this one
                if compose("config", [o for o in kept if o != override]) == cfg:
                    kept.remove(override)
    return " ".join(kept) or "defaults"


def folder_name(overrides: str) -> str:
    """Return a unique folder name for these overrides: without slashes, at most 149 characters when shortened."""
    name = overrides.replace("/", ".") or "defaults"
    ambiguous = len(name) > 150 or re.search(r"=[^,]*/", overrides)
    return f"{name[:140]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}" if ambiguous else name


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("command", command, replace=True)
OmegaConf.register_new_resolver("groups", list_groups, replace=True)
