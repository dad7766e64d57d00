"""Read run folders and find the keys in which runs differ. Nothing here imports torch."""

import csv
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from vae.config.config_dirs import find_config_dir
from vae.config.older_versions import current_choices
from vae.config.resumed_run import CHANGEABLE
from vae.config.schema import CONF, validate
from vae.config.stored_config import (
    check_config,
    check_links,
    read_config,
    read_hydra,
    read_overrides,
    use_own_places,
)
from vae.errors import USER_ERRORS, UserError, did_you_mean, one_line
from vae.runs.atomic_files import atomic_write

log = logging.getLogger(__name__)

SUMMARY = TypeAdapter(dict[str, int | float])
IGNORED_KEYS = ("hydra", "logger", "data_dir", "resume", "search")  # do not count as a difference between runs


@dataclass(frozen=True)
class RunFolder:
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
        try:
            found = OmegaConf.select(self.config, key)
        except OmegaConfBaseException:  # an interpolation of a missing key, for example
            return None
        return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """The rows of metrics.csv."""
        try:
            return read_metrics(self.folder / "metrics.csv")
        except OSError as error:
            log.warning(f"skipped {one_line(error)}")
            return []

    @cached_property
    def seconds(self) -> float:
        """The run time until the last logged row, summed over resumed parts."""
        return max((row.get("seconds", 0.0) for row in self.history), default=0.0)


def read_rows(path: Path) -> tuple[list[str], list[tuple[list[str], dict[str, float]]]]:
    """Return the columns of a metrics.csv and, for each row, its cells and the values of those that are not empty.

    No columns and rows if there is no file. Damaged rows, which a crash of the machine can leave at the end, are
    skipped with a warning.
    """
    if not path.exists():
        return [], []
    header, *lines = path.read_bytes().decode(errors="replace").replace("\r\n", "\n").split("\n")
    columns = next(csv.reader([header]), [])
    if "step" not in columns:
        log.warning(f"{path}: damaged; expected a header with the column step")
        return [], []
    rows, damaged = [], int(lines[-1:] != [""])  # the last line ends with a line break
    for line in lines[:-1]:
        try:
            cells = line.split(",")  # numbers are not quoted
            row = {name: float(cell) for name, cell in zip(columns, cells, strict=True) if cell}
            rows.append((cells, row))
        except ValueError:
            damaged += 1
    if damaged:
        log.warning(f"{path}: skipped {damaged} damaged row{'s' * (damaged > 1)}")
    return columns, rows


def read_cells(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns of a metrics.csv and its rows, as text. See `read_rows`."""
    columns, rows = read_rows(path)
    return columns, [dict(zip(columns, cells, strict=True)) for cells, _ in rows]


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.csv without their empty cells. See `read_rows`."""
    return [row for _, row in read_rows(path)[1]]


def read_summary(folder: Path) -> dict[str, float]:
    """Return the test metrics of a run; none if it is not finished. Raises UserError if summary.json is damaged."""
    path = folder / "summary.json"
    try:
        return SUMMARY.validate_json(path.read_bytes()) if path.exists() else {}
    except ValidationError:
        raise UserError(f"{path}: damaged; expected a JSON object of numbers") from None


def read_run(folder: Path) -> RunFolder:
    """Read a run folder. Raises UserError if one of its files is missing or damaged."""
    failed = folder / "failed.txt"
    try:
        return RunFolder(
            folder,
            config=read_config(folder, escaped=True),
            choices=current_choices(
                {
                    group: str(choice)
                    for group, choice in read_hydra(folder).runtime.choices.items()
                    if "hydra" not in group and choice is not None
                }
            ),
            overridden_keys=tuple(override.lstrip("+~").partition("=")[0] for override in read_overrides(folder)),
            summary=read_summary(folder),
            failure=failed.read_text("utf-8", errors="replace").strip() if failed.exists() else None,
        )
    except FileNotFoundError as error:
        missing = Path(error.filename).relative_to(folder)
        raise UserError(f"{folder}: expected the folder of a run; it has no {missing}") from None


@cache
def warn_once(message: str) -> None:
    """Log a warning, unless it has been logged before."""
    log.warning(message)


def read_finished_run(folder: Path, trust: bool = False, config_dir: str = "", data_path: str = "") -> RunFolder:
    """Read the folder of a finished run. Its images are read from `data_path` if this is given.

    Raises UserError if it is not one, if its config is not valid, or, without `trust`, if it could run code that
    neither conf/ nor the folder `config_dir` names, or write outside of its folder. Without `trust`, places that are
    written to, such as data_dir, are those of conf/, and not those of the run.
    """
    for needed in ("summary.json", ".hydra/config.yaml", ".hydra/overrides.yaml", "checkpoints/best.ckpt"):
        if not (folder / needed).is_file():
            finished = {path.parent for place in (folder, folder.parent) for path in place.glob("*/summary.json")}
            guess = did_you_mean(str(folder), map(str, finished - {folder}))
            raise UserError(f"run={folder}: expected the folder of a finished run; it has no {needed}{guess}")
    run = replace(read_run(folder), config=read_config(folder))
    if not trust:
        named = () if not config_dir else (find_config_dir(config_dir, f"config_dir={config_dir}"),)
        check_config(run.config, f"run={folder}", (CONF, *named))
        check_links(folder, f"run={folder}")
        for line in use_own_places(run.config):
            warn_once(f"run={folder}: {line}")
    if data_path:
        if "path" not in run.config.dataset:
            raise UserError(f"dataset.path={data_path}: the images of this run are not read from a path of yours")
        run.config.dataset.path = data_path
    try:
        validate(run.config)
    except USER_ERRORS as error:
        raise UserError(f"run={folder}: its config.yaml is damaged or not supported: {one_line(error)}") from None
    return run


def store_changes(cfg: DictConfig, folder: Path) -> None:
    """Write the keys of a resumed run that were changed to its config and its arguments."""
    stored = read_config(folder)
    if keys := [key for key in CHANGEABLE if OmegaConf.select(cfg, key) != OmegaConf.select(stored, key)]:
        overrides = [override for override in read_overrides(folder) if override.partition("=")[0] not in keys]
        for key in keys:
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key))
            overrides.append(f"{key}={OmegaConf.select(cfg, key)}".replace("=None", "=null"))
        atomic_write(OmegaConf.to_yaml(OmegaConf.create(overrides)), folder / ".hydra" / "overrides.yaml")
        atomic_write(OmegaConf.to_yaml(stored), folder / ".hydra" / "config.yaml")


def find_runs(places: Iterable[Path]) -> list[RunFolder]:
    """Read the runs in these folders and their subfolders, each run once, sorted by name.

    A damaged run is skipped with a warning. Raises UserError if one of the folders contains no run, or if all runs are
    damaged.
    """
    found: dict[Path, RunFolder] = {}
    failures: list[str] = []
    for place in places:
        folders = sorted(path.parent.parent for path in place.rglob(".hydra/config.yaml"))
        if not folders:
            raise UserError(
                f"{place}: expected the folder of a run or of a sweep; no .hydra/config.yaml in it or in its subfolders"
            )
        for folder in folders:
            if folder.resolve() not in found:
                try:
                    found[folder.resolve()] = read_run(folder)
                except USER_ERRORS as error:
                    failures.append(one_line(error))
    if not found:
        raise UserError(failures[0])
    for failure in failures:
        log.warning(f"skipped {failure}")
    return list(found.values())


def latest_finished_run(place: Path) -> Path:
    """Return the folder of the run in `place` with the newest best checkpoint. Raises UserError if none is finished."""
    finished = [
        path.parent for path in place.rglob("summary.json") if (path.parent / "checkpoints" / "best.ckpt").is_file()
    ]
    if not finished:
        raise UserError(f"run: expected the folder of a finished run; there is none in {place}/")
    return max(finished, key=lambda folder: (folder / "checkpoints" / "best.ckpt").stat().st_mtime)


def differing_keys(runs: Sequence[RunFolder]) -> list[str]:
    """Return the keys given on the command line of any run whose values are not the same in all runs."""
    keys = dict.fromkeys(
        key
        for run in runs
        for key in run.overridden_keys
        if key.partition(".")[0].partition("/")[0] not in IGNORED_KEYS
    )
    return [key for key in keys if len({str(run.value(key)) for run in runs}) > 1]
