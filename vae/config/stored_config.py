"""Read and check what a run folder stores.

A run folder can come from anybody: it is data. It must not run code, read the environment or write outside itself.
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from vae.config.older_versions import current_config, current_override
from vae.config.overrides import parse_override
from vae.config.schema import CONF, Config
from vae.config.yaml_files import parse_config, read_yaml
from vae.errors import UserError, one_line
from vae.terminal import is_visible

KEY = re.compile(r"\$\{[\w.]+\}")  # any other interpolation can call a resolver
MAX_SIZE = 1_000_000  # characters and values of a config with its interpolations
PLACE = re.compile(r"\b(data_dir|save_dir|tracking_uri)\b")  # where a run writes, other than to its own folder
OWN_PLACES = {"data_dir": "config.yaml", "save_dir": "logger/wandb.yaml", "tracking_uri": "logger/mlflow.yaml"}
SUBDIR = re.compile(r"hydra\.sweep\.subdir=([\w-]|\$\{hydra\.job\.num\})+")  # stays in the folder of the sweep
PARAMS = "hydra.sweeper.params."  # of a search; the rest is a key of its runs
# The Hydra keys of a stored sweep. Others, such as hydra.callbacks or hydra.launcher.setup, could run commands.
HYDRA_KEYS = re.compile(
    r"hydra/(launcher|sweeper)|hydra\.(mode|sweep\.dir)"
    r"|hydra\.sweeper\.(n_trials|n_jobs|max_batch_size|direction|study_name)"
    r"|hydra\.launcher\.(n_jobs|timeout_min|partition|account|qos|name|nodes|tasks_per_node|cpus_per_task|gpus_per_node"
    r"|gres|mem_gb|array_parallelism)"
)


def strings(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each string of a nested config with its path, such as ("prior", "_target_")."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from strings(value, (*path, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from strings(value, path)
    elif isinstance(node, str):
        yield path, node


def calls_resolver(text: str) -> bool:
    """Return whether a string has an interpolation other than the name of a key."""
    return "${" in KEY.sub("", text)


@cache
def installed(folder: Path = CONF) -> tuple[frozenset[tuple[str, str]], frozenset[tuple[tuple[str, ...], str]]]:
    """Return the (group, class) pairs and the (path, value) pairs of resolvers that the files in a folder have."""
    targets, resolvers = set(), set()
    for file in folder.rglob("*.yaml"):
        folders = file.relative_to(folder).parts[:-1]
        for path, text in strings(read_yaml(file, aliases=True)):
            group = next((part for part in (*path, *folders) if part in Config.model_fields), None)
            if path[-1:] == ("_target_",) and group:
                targets.add((group, text))
            elif calls_resolver(text) and not folders:
                resolvers.add((path, text))
    return frozenset(targets), frozenset(resolvers)


def read_config(folder: Path, escaped: bool = False) -> DictConfig:
    """Return the config of a run as it is stored, with the present names of classes and keys.

    If `escaped`, resolvers that conf/ does not have are plain text. Raises UserError if the file is damaged.
    """
    path = folder / ".hydra" / "config.yaml"
    content = read_yaml(path, parse_config)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: damaged; expected keys and values")
    if resolved_size(content) > MAX_SIZE:
        raise UserError(f"{path}: the values of its interpolations are too large, or refer to themselves")
    content = current_config(content)
    try:
        return OmegaConf.create(escape_resolvers(content) if escaped else content)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {one_line(error)}") from None


def resolved_size(root: Any) -> float:
    """Return the number of characters and values of a nested config with its interpolations; inf if they are circular.

    With twenty keys that refer twice to the next one, it would be a million times that of the file.
    """
    sizes: dict[tuple[Any, ...], float] = {}

    def size(path: tuple[Any, ...]) -> float:
        if path not in sizes:
            sizes[path] = math.inf  # until it is known: a key that refers to itself finds this
            try:
                node = reduce(lambda node, key: node[int(key) if isinstance(node, list) else key], path, root)
            except (KeyError, IndexError, ValueError):  # a missing key is reported when it is used
                node = None
            if isinstance(node, dict | list):
                sizes[path] = 1 + sum(
                    size((*path, key)) for key in (node if isinstance(node, dict) else range(len(node)))
                )
            else:
                sizes[path] = len(str(node)) + sum(size(target) for target in referred_keys(str(node), path))
        return sizes[path]

    try:
        return size(())
    except (TypeError, RecursionError):  # a key below an interpolation, or a chain of hundreds
        return math.inf


def referred_keys(text: str, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each key that a string at `path` refers to; each leading dot stands for a parent."""
    for name in (match[2:-1] for match in KEY.findall(text)):
        dots = len(name) - len(name.lstrip("."))
        yield (*(path[:-dots] if dots else ()), *name[dots:].split("."))


class Runtime(BaseModel):
    choices: dict[str, str | int | None]
    output_dir: str = ""


class HydraSettings(BaseModel):
    """What is read of .hydra/hydra.yaml: the choice of each config group, and whether the run is of a sweep."""

    runtime: Runtime
    mode: str | None = None


def read_hydra(folder: Path) -> HydraSettings:
    """Return the Hydra settings of a run. Raises UserError if the file is damaged."""
    path = folder / ".hydra" / "hydra.yaml"
    content = read_yaml(path)
    try:
        return HydraSettings.model_validate(content["hydra"])
    except (KeyError, TypeError, ValidationError):
        raise UserError(f"{path}: damaged; expected the settings of Hydra") from None


def read_overrides(folder: Path) -> list[str]:
    """Return the arguments of a run, with the present names of keys. Raises UserError if the file is damaged."""
    path = folder / ".hydra" / "overrides.yaml"
    overrides = read_yaml(path)
    if not isinstance(overrides, list):
        raise UserError(f"{path}: damaged; expected a list of arguments")
    return [current_override(str(override)) for override in overrides]


class SweepArguments(BaseModel, strict=True):
    """sweep.json: the arguments of a sweep, those for Hydra and those of its runs."""

    hydra: list[str]
    task: list[str]


def read_sweep(folder: Path) -> SweepArguments:
    """Return the arguments of the sweep in a folder. Raises UserError if its sweep.json is damaged."""
    path = folder / "sweep.json"
    try:
        return SweepArguments.model_validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(f"{path}: damaged; expected the arguments of a sweep") from None


def has_class(folders: Sequence[Path], group: str, target: str) -> bool:
    """Return whether a file in one of these folders has this class in this group."""
    return any((group, target) in installed(folder)[0] for folder in folders)


def check_config(cfg: DictConfig, source: str, folders: Sequence[Path] = (CONF,)) -> None:
    """Raise UserError if a run's config has a class that no file in these folders has in the same group.

    Resolvers must be those of conf/.
    """
    _, resolvers = installed()
    for path, text in strings(OmegaConf.to_container(cfg, resolve=False)):
        key = ".".join(path)
        if path[-1] == "_target_" and not has_class(folders, path[0], text):
            where = f"in conf/{path[0]}/ or in {path[0]}/ of a --config-dir"
            raise UserError(f"{source}: {key}={text}: this class is not {where}; trust=true allows it")
        if calls_resolver(text) and (path, text) not in resolvers:
            raise UserError(f"{source}: {key}={text}: expected a plain value; trust=true allows it")


def use_own_places(cfg: DictConfig) -> list[str]:
    """Replace the places that a run's config says to write to by those of conf/, in place.

    Returns a line for each place that changes.
    """
    own = {key: read_yaml(CONF / file)[key] for key, file in OWN_PLACES.items()}
    lines = []

    def replace(node: DictConfig, prefix: str) -> None:
        for key, value in list(node.items_ex(resolve=False)):
            if key in own:
                old = node[key]
                node[key] = "${data_dir}" if prefix and key == "data_dir" else own[key]
                if node[key] != old:
                    lines.append(f"{prefix}{key!s}={node[key]} instead of {old}, which the run folder names")
            elif isinstance(value, DictConfig):
                replace(value, f"{prefix}{key!s}.")

    replace(cfg, "")
    return lines


def escape_resolvers(node: Any, path: tuple[str, ...] = ()) -> Any:
    """Return a nested config in which resolvers that conf/ does not have are plain text: reading it calls nothing."""
    if isinstance(node, dict):
        return {key: escape_resolvers(value, (*path, str(key))) for key, value in node.items()}
    if isinstance(node, list):
        return [escape_resolvers(value, path) for value in node]
    foreign = isinstance(node, str) and calls_resolver(node) and (path, node) not in installed()[1]
    return node.replace("${", r"\${") if foreign else node


def split_params(override: str) -> list[str]:
    """Return an override, or one for each key of hydra.sweeper.params={KEY: VALUES, ...}."""
    if not override.startswith(PARAMS[:-1] + "="):
        return [override]
    params = parse_override(override).value()
    return [f"{PARAMS}{key}={value}" for key, value in params.items()] if isinstance(params, dict) else [override]


def check_overrides(overrides: Iterable[str], source: str, folders: Sequence[Path] = (CONF,)) -> None:
    """Raise UserError if the stored arguments of a sweep could run code that these folders do not name."""
    for override in itertools.chain.from_iterable(map(split_params, overrides)):
        key, _, value = override.partition("=")
        key = key.lstrip("+~").partition("@")[0]
        run_key = key.removeprefix(PARAMS)
        group, _, rest = run_key.partition(".")
        hydra_key = run_key.startswith("hydra") and not (HYDRA_KEYS.fullmatch(run_key) and key == run_key)
        target = "_target_" in override and not (rest.endswith("_target_") and has_class(folders, group, value))
        other_file = not rest and re.search(r"\.\.|\$\{", value)  # a choice such as ../../file would be read
        invisible = not all(map(is_visible, override))  # a line break could be a command in the script of a Slurm job
        outside = hydra_key and not SUBDIR.fullmatch(override)
        if outside or target or other_file or invisible or calls_resolver(override):
            raise UserError(f"{source}: {override}: not allowed in stored arguments; trust=true allows it")


def check_links(folder: Path, source: str) -> None:
    """Raise UserError if a link in a run folder points out of it: a file written there would be written elsewhere."""
    root = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            link = f"{path.relative_to(folder)} is a link out of the folder"
            raise UserError(f"{source}: {link}; remove it, or allow it with trust=true")
