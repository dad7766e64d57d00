"""What the arguments of train.py mean, before Hydra composes them. Nothing here imports torch."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, Field

from vae.config.schema import TRAINER_ARGUMENTS, Config, validate_model
from vae.config.section import PositiveInt, Section, fields_by_key, is_group
from vae.errors import UserError, did_you_mean

FOLDER_KEYS = ("hydra.run.dir", "hydra.sweep.dir")
# Where a run writes, other than to its own folder.
PLACE_KEYS = ("data_dir", "dataset.data_dir", "logger.wandb.save_dir", "logger.mlflow.tracking_uri")
PATH_KEYS = (*FOLDER_KEYS, *PLACE_KEYS[:3], "dataset.path")
OPTIONAL_GROUPS = ("experiment", "search")  # of which no choice is needed
# What other projects call a key.
OTHER_NAMES = {
    "model": "architecture",
    "network": "architecture",
    "loss": "objective",
    "data": "dataset",
    "ckpt_path": "resume",
    "checkpoint": "resume",
}


def parse_override(text: str) -> Override:
    """Parse an override with Hydra's grammar. Raises UserError if it is not valid."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        key, _, value = text.partition("=")
        hint = f"""; quote the text: "{key}='{value}'\"""" if key in {*text_keys(), *FOLDER_KEYS} else ""
        raise UserError(f"{text}: cannot be parsed as key=value: {str(error).splitlines()[0]}{hint}") from None


def quote_path(path: str | Path) -> str:
    """Return the name of a file or folder as Hydra reads it literally: quoted, without interpolations."""
    return "'" + str(path).replace("'", r"\'").replace("${", r"\${") + "'"


def check_folder(path: str) -> str:
    """Return the path of a folder in which Hydra works. Raises UserError if Hydra would read an interpolation in it."""
    if "${" in os.path.abspath(path):
        raise UserError(f"{os.path.abspath(path)}: expected a folder without ${{ in its path; please rename it")
    return path


def is_literal(text: str) -> bool:
    """Return whether Hydra reads a text as it is."""
    try:
        return OverridesParser.create().parse_override(f"key={text}").value() == text and "${" not in text
    except HydraException:
        return False


def override_values(override: Override) -> list[str]:
    """Return the value of an override, or all values of a sweep; none for glob(...), which matches only choices."""
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        return []
    values = override.sweep_string_iterator() if override.is_sweep_override() else [override.value()]
    return [as_text(value) for value in values]


def as_text(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(as_text, value))}]"
    return "null" if value is None else str(value)


def text_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield the keys whose values are texts, such as dataset.path."""
    for key, field in fields_by_key(model).items():
        kind: Any = field.annotation
        if is_group(kind):
            for group in (kind, *kind.descendants()):
                yield from text_keys(group, f"{prefix}{key}.")
        elif kind in (str, str | None, list[str]):
            yield prefix + key


def read_arguments(typed: Iterable[str]) -> list[str]:
    """Return the arguments as Hydra needs them.

    Numbers and booleans are quoted where a text is meant: dataset.path=2024 becomes dataset.path='2024'. The names of
    files and folders may begin with ~; if they exist, they are taken literally: dataset.path=a=b.
    experiment=null is left out: this is the default, but Hydra does not accept it.
    """
    keys = {*text_keys(), *FOLDER_KEYS}
    check_folder(os.getcwd())

    def quote(argument: str) -> str:
        key, _, value = argument.partition("=")
        path = os.path.expanduser(value)
        if key in ("resume", "sweep"):
            return f"{key}={check_folder(path)}"
        if key in PATH_KEYS and path and (path != value or os.path.exists(path)):
            if key in FOLDER_KEYS:
                check_folder(path)
            return f"{key}={path if is_literal(path) else quote_path(path)}"
        if key.lstrip("+") not in keys or re.search(r"""["'(){}\\]""", value):
            return argument
        words = re.split(r"([\[\],])", value)
        return f"{key}={''.join(map(quote_word, words))}"

    def quote_word(word: str) -> str:
        try:
            value = OverridesParser.create().parse_override(f"key={word}").value()
        except HydraException:
            return word
        return f"'{word.strip()}'" if isinstance(value, int | float) else word

    nothing = [f"{group}=null" for group in OPTIONAL_GROUPS]
    return [add_trainer_argument(quote(argument)) for argument in typed if argument not in nothing]


def add_trainer_argument(argument: str) -> str:
    """Put ++ before an argument of Lightning's Trainer that conf/trainer/ does not have."""
    group, _, key = argument.partition("=")[0].partition(".")
    return f"++{argument}" if group == "trainer" and key in TRAINER_ARGUMENTS else argument


def guess_key(key: str, keys: Iterable[str]) -> str:
    """Return "; did you mean KEY?": a key with a similar name or a similar last part, or what OTHER_NAMES says."""
    if key in OTHER_NAMES:
        return f"; did you mean {OTHER_NAMES[key]}?"
    if guess := did_you_mean(key, keys):
        return guess
    by_last_part = {name.rpartition(".")[2]: name for name in sorted(keys, key=lambda name: -name.count("."))}
    guess = did_you_mean(key.rpartition(".")[2], by_last_part)
    last = guess.removeprefix("; did you mean ").removesuffix("?")
    return f"; did you mean {by_last_part[last]}?" if guess else ""


class Sweeper(Section):
    n_trials: PositiveInt = 1
    n_jobs: PositiveInt = 1
    max_batch_size: PositiveInt | None = Field(None, description="a whole number, 1 or more, or null")
    direction: Literal["maximize", "minimize"] = "maximize"


class Launcher(Section):
    n_jobs: PositiveInt | Annotated[int, Field(lt=0)] = Field(
        1, description="a number of processes, 1 or more, or -1 for one per CPU"
    )


class Sweeping(Section):
    sweeper: Sweeper
    launcher: Launcher


class HydraKeys(Section):
    hydra: Sweeping


def check_sweep(cfg: DictConfig) -> None:
    """Raise UserError if the sweeper or the launcher cannot run with its keys; `cfg` includes the keys of Hydra."""
    parts = {name: OmegaConf.to_container(cfg.hydra[name], resolve=False) for name in ("sweeper", "launcher")}
    validate_model(HydraKeys, {"hydra": parts})
    if "SlurmLauncher" in str(cfg.hydra.launcher.get("_target_")) and not shutil.which("srun"):
        raise UserError(
            "hydra/launcher=submitit_slurm: this machine has no srun, so it is not part of a Slurm cluster; "
            "hydra/launcher=joblib runs the jobs here"
        )
