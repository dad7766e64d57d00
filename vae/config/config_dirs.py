"""Folders of configs: conf/, and those that the command line names. Nothing here imports torch."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from vae.config.overrides import parse_override
from vae.config.schema import CONF
from vae.errors import UserError

FLAGS = ("--config-dir", "-cd")
SEARCH_PATH = "hydra.searchpath="


def import_from_current_folder() -> None:
    """Let configs name classes of modules in the current folder. Installed modules of the same name come first."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def find_config_dir(name: str, source: str) -> Path:
    """Return the absolute path of a folder, file://FOLDER or pkg://PACKAGE. Raises UserError if there is none."""
    if name.startswith("pkg://"):
        package = name.removeprefix("pkg://").replace("/", ".")
        try:
            spec = find_spec(package)
        except ModuleNotFoundError:
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"{source}: expected a package; there is no {package}")
        return Path(next(iter(spec.submodule_search_locations)))
    folder = Path(name.removeprefix("file://"))
    if not folder.is_dir():
        raise UserError(f"{source}: expected a folder of configs; this folder does not exist")
    return folder.absolute()


def search_path(argument: str) -> list[str]:
    """Return the folders in hydra.searchpath=[...]. Raises UserError if it is not a list."""
    folders = parse_override(argument).value()
    if not isinstance(folders, list):
        raise UserError(f"{argument}: expected a list of folders, such as [file://FOLDER]")
    return list(map(str, folders))


def to_search_path(argv: Sequence[str]) -> list[str]:
    """Write the folders of --config-dir and hydra.searchpath as one hydra.searchpath, with absolute paths.

    Raises UserError if one of them does not exist.
    """
    others: list[str] = []
    folders: list[Path] = []
    arguments = iter(argv)
    for argument in arguments:
        flag, _, name = argument.partition("=")
        if flag in FLAGS:
            name = name or next(arguments, "")
            folders.append(find_config_dir(name, f"{flag}={name}"))
        elif argument.startswith(SEARCH_PATH):
            folders += [find_config_dir(name, argument) for name in search_path(argument)]
        else:
            others.append(argument)
    quoted = ["'file://{}'".format(str(folder).replace("'", r"\'")) for folder in folders]
    return [*others, *([f"{SEARCH_PATH}[{','.join(quoted)}]"] if quoted else [])]


def config_dirs(argv: Sequence[str]) -> tuple[Path, ...]:
    """Return conf/ and the folders of hydra.searchpath."""
    paths = [argument for argument in argv if argument.startswith(SEARCH_PATH)]
    return (CONF, *(find_config_dir(name, path) for path in paths for name in search_path(path)))
