"""Run folders: what each was, what came of it, and in what they differ. Nothing here imports torch."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter

from vae.config.older_versions import current_config, current_override
from vae.config.schema import validate
from vae.errors import USER_ERRORS, UserError, did_you_mean, one_line

METRICS = TypeAdapter(dict[str, int | float])
IGNORED_KEYS = ("hydra", "logger", "data_dir", "resume", "search")  # keys that make no run another


@dataclass(frozen=True)
class Run:
    """A folder that train.py has begun to fill."""

    folder: Path
    config: DictConfig
    choices: dict[str, str]  # of each group, such as dataset: mnist
    typed: tuple[str, ...]  # the keys of its command line
    summary: dict[str, float]  # the test metrics; empty before the end
    reason: str | None  # why it failed

    @property
    def status(self) -> str:
        """finished, failed, or unfinished: cut off, or still under way."""
        return "finished" if self.summary else "failed" if self.reason else "unfinished"

    def value(self, key: str) -> Any:
        """Of a key, its value; of a group, its choice; None where the run has neither."""
        if key in self.choices:
            return self.choices[key]
        found = OmegaConf.select(self.config, key)
        return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found

    @cached_property
    def records(self) -> list[dict[str, float]]:
        """Those of its metrics.csv."""
        return records(self.folder / "metrics.csv")

    @property
    def seconds(self) -> float:
        """From its beginning to its last record, in all its parts."""
        return max((record.get("seconds", 0.0) for record in self.records), default=0.0)


def records(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, each without its empty cells; none where there is no file. UserError if damaged."""
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, csv.Error):
        raise UserError(f"{path}: damaged; expected a row of numbers for each record") from None


def read(folder: Path) -> Run:
    """The run in a folder; UserError if what is there cannot be read."""
    hydra, summary, failed = folder / ".hydra", folder / "summary.json", folder / "failed.txt"
    try:
        config = OmegaConf.load(hydra / "config.yaml")
        about = yaml.load((hydra / "hydra.yaml").read_bytes(), yaml.CSafeLoader)  # long: OmegaConf takes 20 ms for it
        assert isinstance(config, DictConfig)
        typed = [current_override(str(override)) for override in OmegaConf.load(hydra / "overrides.yaml")]
        return Run(
            folder,
            current_config(config),
            {
                group: current_override(f"{group}={choice}").partition("=")[2]
                for group, choice in about["hydra"]["runtime"]["choices"].items()
                if "hydra" not in group and choice is not None
            },
            tuple(override.lstrip("+~").partition("=")[0] for override in typed),
            METRICS.validate_json(summary.read_bytes()) if summary.exists() else {},
            failed.read_text().strip() if failed.exists() else None,
        )
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AssertionError):
        raise UserError(
            f"{folder}: expected the folder of a run; its .hydra/ or summary.json is missing or damaged"
        ) from None


def find(places: Iterable[Path]) -> list[Run]:
    """The runs in these folders and below, each once, by name; UserError for a place that holds none."""
    found: dict[Path, Run] = {}
    for place in places:
        folders = sorted(path.parent.parent for path in place.rglob(".hydra/config.yaml"))
        if not folders:
            raise UserError(
                f"{place}: expected the folder of a run or of a sweep; there is no .hydra/config.yaml in or below it"
            )
        found |= {folder.resolve(): read(folder) for folder in folders if folder.resolve() not in found}
    return list(found.values())


def finished(folder: Path) -> tuple[DictConfig, dict[str, float]]:
    """The config and the summary of a finished run; UserError if it is none."""
    for needed in ("summary.json", ".hydra/config.yaml", ".hydra/overrides.yaml", "checkpoints/best.ckpt"):
        if not (folder / needed).is_file():
            done = {path.parent for at in (folder, folder.parent) for path in at.glob("*/summary.json")}
            reason = f"there is no {needed} in it{did_you_mean(str(folder), map(str, done - {folder}))}"
            raise UserError(f"run={folder}: expected the folder of a finished run; {reason}")
    try:
        cfg = OmegaConf.load(folder / ".hydra" / "config.yaml")
        summary = json.loads((folder / "summary.json").read_text())
    except (yaml.YAMLError, ValueError):
        raise UserError(f"run={folder}: its config.yaml or summary.json is damaged") from None
    if not isinstance(cfg, DictConfig):
        raise UserError(f"run={folder}: its config.yaml is damaged")
    current_config(cfg)
    try:
        validate(cfg)
    except USER_ERRORS as error:
        raise UserError(f"run={folder}: its config.yaml is damaged, or of other keys: {one_line(error)}") from None
    return cfg, summary


def newest(place: Path) -> Path:
    """The folder of the run, of those in and below a place, that finished last; UserError if none has."""
    done = [
        path.parent for path in place.rglob("summary.json") if (path.parent / "checkpoints" / "best.ckpt").is_file()
    ]
    if not done:
        raise UserError(f"run: expected the folder of a finished run; there is none in {place}/")
    return max(done, key=lambda folder: (folder / "checkpoints" / "best.ckpt").stat().st_mtime)


def differences(runs: Sequence[Run]) -> list[str]:
    """The keys, of those typed for any of the runs, whose values are not the same in all."""
    typed = dict.fromkeys(
        key for run in runs for key in run.typed if key.partition(".")[0].partition("/")[0] not in IGNORED_KEYS
    )
    return [key for key in typed if len({str(run.value(key)) for run in runs}) > 1]


def write(content: str | bytes, path: Path) -> None:
    """The file, whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)
