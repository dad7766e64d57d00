"""Read run folders and find the keys in which runs differ. Nothing here imports torch."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter

from vae.config.older_versions import current_choices, current_override
from vae.config.schema import validate
from vae.config.stored_config import check_config, check_links, escape_resolvers, read_config
from vae.errors import USER_ERRORS, UserError, did_you_mean, one_line

SUMMARY = TypeAdapter(dict[str, int | float])
IGNORED_KEYS = ("hydra", "logger", "data_dir", "resume", "search")  # do not count as a difference between runs


@dataclass(frozen=True)
class Run:
    """The content of a run folder, with the present names of classes and keys."""

    folder: Path
    config: DictConfig
    choices: dict[str, str]  # the choice of each config group, such as dataset: mnist
    overridden_keys: tuple[str, ...]  # the keys given on the command line
    summary: dict[str, float]  # the test metrics; empty until the run is finished
    failure: str | None  # the error message of a failed run

    @property
    def status(self) -> str:
        """Either finished, failed, or unfinished: interrupted or still running."""
        return "finished" if self.summary else "failed" if self.failure else "unfinished"

    def value(self, key: str) -> Any:
        """Return the value of a key, or the choice of a config group; None if the run has no such key."""
        if key in self.choices:
            return self.choices[key]
        found = OmegaConf.select(self.config, key)
        return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """The rows of metrics.csv."""
        return read_metrics(self.folder / "metrics.csv")

    @property
    def seconds(self) -> float:
        """The run time until the last logged row, summed over resumed parts."""
        return max((row.get("seconds", 0.0) for row in self.history), default=0.0)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.csv without their empty cells; no rows if there is no file.

    Raises UserError if the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, csv.Error):
        raise UserError(f"{path}: damaged; expected a header and rows of numbers") from None


def read_run(folder: Path) -> Run:
    """Read a run folder. Raises UserError if one of its files is missing or damaged."""
    hydra, summary, failed = folder / ".hydra", folder / "summary.json", folder / "failed.txt"
    try:
        details = yaml.load((hydra / "hydra.yaml").read_bytes(), yaml.CSafeLoader)  # OmegaConf would take 20 ms
        overrides = [current_override(str(override)) for override in OmegaConf.load(hydra / "overrides.yaml")]
        return Run(
            folder,
            config=escape_resolvers(read_config(folder)),
            choices=current_choices(
                {
                    group: choice
                    for group, choice in details["hydra"]["runtime"]["choices"].items()
                    if "hydra" not in group and choice is not None
                }
            ),
            overridden_keys=tuple(override.lstrip("+~").partition("=")[0] for override in overrides),
            summary=SUMMARY.validate_json(summary.read_bytes()) if summary.exists() else {},
            failure=failed.read_text().strip() if failed.exists() else None,
        )
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AssertionError):
        files = ".hydra/config.yaml, .hydra/hydra.yaml, .hydra/overrides.yaml or summary.json"
        raise UserError(f"{folder}: expected the folder of a run; {files} is missing or damaged") from None


def read_finished_run(folder: Path, trust: bool = False) -> Run:
    """Read the folder of a finished run.

    Raises UserError if it is not one, if its config is not valid, or, without `trust`, if it could run code that is
    not part of this installation or write outside of its folder.
    """
    for needed in ("summary.json", ".hydra/config.yaml", ".hydra/overrides.yaml", "checkpoints/best.ckpt"):
        if not (folder / needed).is_file():
            finished = {path.parent for place in (folder, folder.parent) for path in place.glob("*/summary.json")}
            guess = did_you_mean(str(folder), map(str, finished - {folder}))
            raise UserError(f"run={folder}: expected the folder of a finished run; it has no {needed}{guess}")
    run = replace(read_run(folder), config=read_config(folder))
    if not trust:
        check_config(run.config, f"run={folder}")
        check_links(folder, f"run={folder}")
    try:
        validate(run.config)
    except USER_ERRORS as error:
        raise UserError(f"run={folder}: its config.yaml is damaged or not supported: {one_line(error)}") from None
    return run


def find_runs(places: Iterable[Path]) -> list[Run]:
    """Read the runs in these folders and their subfolders, each run once, sorted by name.

    Raises UserError if one of the folders contains no run.
    """
    found: dict[Path, Run] = {}
    for place in places:
        folders = sorted(path.parent.parent for path in place.rglob(".hydra/config.yaml"))
        if not folders:
            raise UserError(
                f"{place}: expected the folder of a run or of a sweep; no .hydra/config.yaml in it or in its subfolders"
            )
        found |= {folder.resolve(): read_run(folder) for folder in folders if folder.resolve() not in found}
    return list(found.values())


def latest_finished_run(place: Path) -> Path:
    """Return the folder of the run in `place` with the newest best checkpoint. Raises UserError if none is finished."""
    finished = [
        path.parent for path in place.rglob("summary.json") if (path.parent / "checkpoints" / "best.ckpt").is_file()
    ]
    if not finished:
        raise UserError(f"run: expected the folder of a finished run; there is none in {place}/")
    return max(finished, key=lambda folder: (folder / "checkpoints" / "best.ckpt").stat().st_mtime)


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys given on the command line of any run whose values are not the same in all runs."""
    keys = dict.fromkeys(
        key
        for run in runs
        for key in run.overridden_keys
        if key.partition(".")[0].partition("/")[0] not in IGNORED_KEYS
    )
    return [key for key in keys if len({str(run.value(key)) for run in runs}) > 1]
