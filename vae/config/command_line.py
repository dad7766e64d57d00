"""Command lines: their arguments, the choices and names that they have. Nothing here imports torch."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vae.config.config_dirs import config_dirs, import_from_current_folder
from vae.config.schema import CONF, Model, fields_by_key, validate_model
from vae.config.yaml_files import read_yaml
from vae.errors import USER_ERRORS, UserError, one_line
from vae.process import prepare_process

PACKAGE = Path(__file__).parents[1]


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
