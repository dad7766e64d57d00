"""What was typed, as Hydra is to have it, or one clear line for what it may not be. Nothing here imports torch."""

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vae.config.older_versions import current_override
from vae.config.schema import CONF, Model, checked, keys_of
from vae.errors import USER_ERRORS, UserError, did_you_mean, one_line


def arguments(model: type[Model], typed: Sequence[str]) -> Model:
    """key=value arguments as the model has them; UserError for what it does not."""
    given, known = {}, keys_of(model)
    for text in typed:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{text}: expected key=value, with one of {', '.join(known)}")
        try:
            given[key] = value if key in known and known[key].annotation is str else yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"{text}: cannot be read; expected a value, or a list such as [a,b]") from None
    return checked(model, given)


def command(work: Callable[[Sequence[str]], int | None], manual: str | None, stopped: str) -> int:
    """The exit code of `python -m vae.NAME`, whose work takes what was typed.

    --help shows the manual; what is refused is one line and 2; Ctrl-C is 130, with a line that says what it has left.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(manual)
        return 0
    try:
        return work(sys.argv[1:]) or 0
    except (*USER_ERRORS, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130


def choices(group: str) -> list[str]:
    """The files of a config group, without their ending; conf/sweep/, which is for `wandb sweep`, is none."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if group != "sweep")


def groups() -> str:
    """Every group of train.py, a line each with its choices."""
    found = sorted({str(path.parent.relative_to(CONF)) for path in CONF.rglob("*.yaml")})
    return "".join(f"{g}: {', '.join(choices(g))}\n" for g in found if choices(g) and not g.startswith((".", "hydra/")))


def leaves(cfg: DictConfig, prefix: str = "") -> set[str]:
    """Every key, dotted."""
    keys = set()
    for key, value in cfg.items_ex(resolve=False):
        keys.add(f"{prefix}{key!s}")
        if isinstance(value, DictConfig):
            keys |= leaves(value, f"{prefix}{key!s}.")
    return keys


def parse(text: str) -> Override:
    """An override, by Hydra's grammar; UserError if it is none."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"{text}: cannot be read as key=value: {str(error).splitlines()[0]}") from None


def values(override: Override) -> list[str]:
    """Its value, or those of its sweep; none of glob(...), which names only what there is."""
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        return []
    return list(map(str, override.sweep_string_iterator() if override.is_sweep_override() else [override.value()]))


@contextmanager
def composing() -> Iterator[None]:
    """Inside, `compose` reads conf/, also within a run of Hydra, which goes on after it."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), job_name="train", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError where one names a choice that has no file, or a key that no chosen file has."""
    parsed = list(map(parse, overrides))
    for override in parsed:
        if override.key_or_group == "resume":
            raise UserError(f"{override.input_line}: expected resume=FOLDER, and no other key")
        if override.key_or_group in ("data_dir", "logger.save_dir") and override.is_sweep_override():
            raise UserError(f"{override.input_line}: expected one folder for all runs of a sweep")
    changed = [o for o in parsed if not (o.is_delete() or o.is_add() or o.is_hydra_override())]
    chosen = {o.key_or_group: values(o) for o in changed if choices(o.key_or_group)}
    for group, names in chosen.items():
        for name in names:
            if name not in choices(group):
                allowed = ", ".join(choices(group))
                raise UserError(f"{group}={name}: expected one of {allowed}{did_you_mean(name, choices(group))}")
    first = [f"{group}={names[0]}" for group, names in chosen.items() if names]
    others = [f"{group}={name}" for group, names in chosen.items() for name in names[1:]]
    with composing():
        keys = leaves(compose("config", first)).union(*(leaves(compose("config", [*first, o])) for o in others))
    for key in (o.key_or_group for o in changed if o.key_or_group not in chosen):
        if key not in keys:
            raise UserError(f"{key}: no such key{did_you_mean(key, keys)} (python train.py --help)")


def sweep_arguments(typed: Sequence[str]) -> list[str]:
    """The command line with sweep=FOLDER replaced by what goes on with it, its own line; -m first; a search is a sweep.

    Beside sweep= may stand that line, and what makes no run another: hydra's keys, and data_dir. UserError for others,
    or where there is no sweep.
    """
    folders = [arg.removeprefix("sweep=") for arg in typed if arg.startswith("sweep=")]
    others = [arg for arg in typed if not arg.startswith("sweep=") and arg not in ("-m", "--multirun")]
    if not folders:
        search = {arg.partition("=")[2] for arg in others if arg.startswith("search=")} - {"", "null"}
        return [*(["-m"] if search or len(others) < len(typed) else []), *others]
    folder = Path(folders[-1])
    try:
        known = json.loads((folder / "sweep.json").read_text())
        line = list(map(current_override, [*known["hydra"], *known["task"]]))
    except OSError:
        raise UserError(f"sweep={folder}: expected the folder of a sweep; there is no sweep.json in it") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"sweep={folder}: its sweep.json is damaged") from None
    new = [arg for arg in others if arg not in line]
    if changed := [arg for arg in new if not arg.startswith(("hydra", "data_dir="))]:
        own = shlex.join(known["task"])
        raise UserError(f"sweep={folder}: it goes on with its own line, {own}; expected nothing else, not {changed[0]}")
    quoted = str(folder.resolve()).replace("'", "\\'")
    replaced = {"hydra.mode", "hydra.sweep.dir", *(arg.partition("=")[0] for arg in new)}
    kept = [arg for arg in line if arg.partition("=")[0] not in replaced]
    return ["-m", *kept, *new, f"hydra.sweep.dir='{quoted}'"]


def resume_arguments(arguments: list[str]) -> list[str]:
    """The command line with resume=FOLDER replaced by that run's own config and folder; others as they are."""
    folders = [arg.removeprefix("resume=") for arg in arguments if arg.startswith("resume=")]
    if not folders:
        return arguments
    if len(arguments) > 1:
        others = " ".join(arg for arg in arguments if not arg.startswith("resume="))
        raise UserError(f"resume={folders[0]}: a run goes on with its own config; expected no other key, not {others}")
    folder = Path(folders[0])
    for needed in (".hydra/config.yaml", "checkpoints/last.ckpt"):
        if not (folder / needed).is_file():
            raise UserError(f"resume={folder}: expected the folder of a run; there is no {needed} in it")
    here = folder.resolve()
    quoted = str(here).replace("'", "\\'")
    return [
        f"--config-path={here / '.hydra'}",
        f"--config-dir={CONF}",
        "hydra/job_logging=vae",
        "hydra.output_subdir=null",
        f"hydra.run.dir='{quoted}'",
        f"resume='{quoted}'",
    ]


def run_name(overrides: Sequence[str]) -> str:
    """The overrides without which the config would be another; what says where files go or are sent aside."""
    kept = [o for o in overrides if not o.startswith(("hydra", "logger", "data_dir"))]
    with composing():
        cfg = compose("config", kept)
        for override in tuple(kept):
            with suppress(HydraException):  # the others do not compose without it
                if compose("config", [o for o in kept if o != override]) == cfg:
                    kept.remove(override)
    return " ".join(kept) or "defaults"


def folder_name(overrides: str) -> str:
    """Overrides as the name of one folder, different for others: no slash, and not longer than file systems take."""
    name = overrides.replace("/", ".") or "defaults"
    ambiguous = len(name) > 150 or re.search(r"=[^,]*/", overrides)
    return f"{name[:140]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}" if ambiguous else name


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("groups", groups, replace=True)
