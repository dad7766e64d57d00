"""Read and check what a run folder stores.

A run folder can come from anybody: it is data. It must not run code, read the environment or write outside itself.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from vae.config.older_versions import current_config
from vae.config.schema import CONF, Config
from vae.errors import UserError

KEY = re.compile(r"\$\{[\w.]+\}")  # any other interpolation can call a resolver
# The Hydra keys of a stored sweep. Others, such as hydra.callbacks or hydra.launcher.setup, could run commands.
HYDRA_KEYS = re.compile(
    r"hydra/(launcher|sweeper)|hydra\.(mode|sweep\.(dir|subdir))"
    r"|hydra\.sweeper\.(n_trials|n_jobs|max_batch_size|direction|study_name|params(\.[\w.]+)?)"
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
def installed() -> tuple[frozenset[tuple[str, str]], frozenset[tuple[tuple[str, ...], str]]]:
    """Return the (group, class) pairs and the (path, value) pairs of resolvers that the files in conf/ have."""
    targets, resolvers = set(), set()
    for file in CONF.rglob("*.yaml"):
        folders = file.relative_to(CONF).parts[:-1]
        for path, text in strings(yaml.safe_load(file.read_bytes())):
            group = next((part for part in (*path, *folders) if part in Config.model_fields), None)
            if path[-1:] == ("_target_",) and group:
                targets.add((group, text))
            elif calls_resolver(text) and not folders:
                resolvers.add((path, text))
    return frozenset(targets), frozenset(resolvers)


def read_config(folder: Path) -> DictConfig:
    """Return the config of a run as it is stored, with the present names of classes and keys."""
    config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert isinstance(config, DictConfig)
    return current_config(config)


def check_config(cfg: DictConfig, source: str) -> None:
    """Raise UserError if a run's config has a class or a resolver that no file in conf/ has in the same group."""
    targets, resolvers = installed()
    for path, text in strings(OmegaConf.to_container(cfg, resolve=False)):
        key = ".".join(path)
        if path[-1] == "_target_" and (path[0], text) not in targets:
            raise UserError(f"{source}: {key}={text}: this class is not in conf/{path[0]}/; trust=true allows it")
        if calls_resolver(text) and (path, text) not in resolvers:
            raise UserError(f"{source}: {key}={text}: expected a plain value; trust=true allows it")


def escape_resolvers(cfg: DictConfig) -> DictConfig:
    """Return a config in which resolvers that conf/ does not have are plain text: reading a value calls nothing."""
    _, resolvers = installed()

    def escape(node: Any, path: tuple[str, ...] = ()) -> Any:
        if isinstance(node, dict):
            return {key: escape(value, (*path, str(key))) for key, value in node.items()}
        if isinstance(node, list):
            return [escape(value, path) for value in node]
        foreign = isinstance(node, str) and calls_resolver(node) and (path, node) not in resolvers
        return node.replace("${", r"\${") if foreign else node

    return OmegaConf.create(escape(OmegaConf.to_container(cfg, resolve=False)))


def check_overrides(overrides: Iterable[str], source: str) -> None:
    """Raise UserError if the stored arguments of a sweep could run code that is not part of this installation."""
    targets, _ = installed()
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+~").partition("@")[0]
        group, _, rest = key.partition(".")
        hydra_key = key.startswith("hydra") and not HYDRA_KEYS.fullmatch(key)
        target = "_target_" in override and not (rest.endswith("_target_") and (group, value) in targets)
        if hydra_key or target or calls_resolver(override):
            raise UserError(f"{source}: {override}: not allowed in stored arguments; trust=true allows it")


def check_links(folder: Path, source: str) -> None:
    """Raise UserError if a link in a run folder points out of it: a file written there would be written elsewhere."""
    root = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            link = f"{path.relative_to(folder)} is a link out of the folder"
            raise UserError(f"{source}: {link}; remove it, or allow it with trust=true")
