"""Every command line in the README and in the documentation: its keys compose, its module and arguments parse."""

import importlib
import itertools
import re
import shlex
import tomllib
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pages import FENCE, PAGES, ROOT, command_lines, name, spans

from vae.config.command_line import choices, parse_arguments
from vae.config.overrides import add_trainer_argument, override_values, parse_override
from vae.config.resumed_run import is_changeable
from vae.config.schema import CONF, Config, validate
from vae.errors import USER_ERRORS

COMMANDS = command_lines()
NOT_OURS = [
    "git clone <this repository> && cd vae",
    "source .venv/bin/activate",
    "wandb login",
    "wandb agent",
]
NOT_KEYS = ["key=value", "validate_args=False"]
OTHER_MODULES = ["compare", "dashboard", "evaluate", "explore", "export", "generate", "latent", "sync"]


def arguments_model(module):
    package = ROOT.joinpath(*module.split("."))
    return importlib.import_module(f"{module}.__main__" if package.is_dir() else module)


def check_train(typed):
    """Compose and validate every run of the arguments of train.py."""
    typed = [add_trainer_argument(arg) for arg in typed if not arg.startswith("--config-dir=")]
    flags = [arg for arg in typed if arg.startswith("-")]
    assert set(flags) <= {"-m", "--help", "--cfg"}, flags
    overrides = [arg for arg in typed if "=" in arg]
    assert len(overrides) + len(flags) + ("--cfg" in flags) == len(typed), typed
    if any(arg.startswith(("resume=", "sweep=")) for arg in overrides):
        changed = {arg for arg in overrides if is_changeable(arg)}
        assert len(set(overrides) - {"trust=true"} - changed) == 1  # a stored run has its own keys
        return
    parsed = [parse_override(arg) for arg in overrides if not example(arg)]
    assert "-m" in flags or not any(override.is_sweep_override() for override in parsed)
    runs = [
        [f"{o.key_or_group}={value}" for value in override_values(o)] if o.is_sweep_override() else [o.input_line]
        for o in parsed
    ]
    for run in itertools.product(*runs):
        validate(composed(run))


@cache
def composed(overrides):
    """The config of a run; an error for a key or a choice that does not exist."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def example(override):
    """Whether it names a part that a page adds; test_extending.py and test_own_configs.py train these."""
    group, _, choice = override.partition("=")
    pages = (ROOT / "docs" / page for page in ("extending.md", "training/own_configs.md"))
    return any(f'title="my_configs/{group}/{choice}.yaml"' in page.read_text() for page in pages)


def check_module(module, typed):
    """Parse the arguments of python -m, by the command's own model."""
    found = arguments_model(module)
    typed = [arg for arg in typed if arg != "--help"]
    if not typed:  # the name of the command alone
        return None
    if module == "vae.compare":
        return found.parse_command_line(typed)
    if module == "vae.sync":
        typed = [arg if "=" in arg else f"outputs={arg}" for arg in typed]
    given = parse_arguments(found.Arguments, typed)
    if module == "vae.generate":
        given.requested()
    return given


def check_make(typed):
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    for arg in typed:
        key, equals, value = arg.partition("=")
        if not equals:
            assert arg in phony.split(), arg
        elif key == "ARGS":
            check_train(shlex.split(value))
        else:
            assert (key, value) in [("BUDGET", "full"), ("BUDGET", "cpu")], arg


def check_pip(typed):
    match typed:
        case ["install", "." | ".[notebook]"]:
            assert (ROOT / "pyproject.toml").is_file()
        case ["install", "-r", file]:
            assert (ROOT / file).is_file()
        case ["install", *_, "-e", where]:
            extra = re.fullmatch(r"\.(?:\[(\w+)\])?", where)[1]
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert extra is None or extra in project["optional-dependencies"]
        case _:
            raise AssertionError(typed)


def check(line):
    match shlex.split(line, comments=True):
        case ["python", "train.py", *typed]:
            check_train(typed)
        case ["srun", *_, "python", "train.py", first, second]:
            check_train([first, second])
        case ["python", "-m", module, *typed]:
            check_module(module, typed)
        case ["vae", "--help"]:
            pass
        case ["vae", "train", *typed]:
            check_train(typed)
        case ["vae", command, *typed]:
            check_module(f"vae.{command}", typed)
        case ["python" | "wandb", *_, file] if file.startswith(("benchmarks/", "conf/sweep/")):
            assert (ROOT / file).is_file()
        case ["make", *typed]:
            check_make(typed)
        case ["pip", *typed]:
            check_pip(typed)
        case _:
            assert line in NOT_OURS


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 60
    assert len({line for page, line in COMMANDS if page == "README.md"}) > 15


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: value)
def test_command_line_is_valid(page, line):
    assert page
    check(line)


@pytest.mark.parametrize(
    "line",
    [
        "python train.py latnt_dim=2",
        "python train.py latent_dim=2,5",
        "python train.py prior=flwo",
        "python train.py experiment=livestream",
        "python train.py latent_dim=0",
        "python -m vae.generate whta=walk",
        "python -m vae.generate what=samples images=[1]",
        "python -m vae.latent map=tsne",
        "python -m vae.evaluate K=5",
        "python -m vae.evaluation",
        'make train ARGS="latnt_dim=2"',
        "make tests",
        "pip install -e '.[doc]'",
    ],
)
def test_wrong_command_line_is_found(line):
    with pytest.raises((AssertionError, ImportError, *USER_ERRORS)):
        check(line)


def table_arguments():
    """(page, arguments) for the first column of every table headed `python train.py`."""
    for page in PAGES:
        for table in re.findall(r"(?:^\|.*\n)+", FENCE.sub("", page.read_text()), re.MULTILINE):
            head, _, *rows = table.splitlines()
            if head.startswith("| `python train.py` |"):
                for row in rows:
                    yield from ((name(page), span) for span in spans(row.split(" | ")[0]))


@pytest.mark.parametrize(("page", "line"), sorted(set(table_arguments())), ids=lambda value: value)
def test_arguments_in_tables_are_valid(page, line):
    assert page
    check_train(shlex.split(line))


def keys_in_text():
    """(page, key=value) for all inline code that names a key, with an empty value where it has none."""
    found = {span: name(page) for page in PAGES for span in spans(page.read_text()) if span not in NOT_KEYS}
    for span, page in sorted(found.items()):
        if re.fullmatch(r"[a-z][\w./]*=\S*", span):
            yield page, span
        elif re.fullmatch(r"\w+(\.\w+)+", span) and span.partition(".")[0] in Config.model_fields:
            yield page, f"{span}="


def contexts(key):
    """Choices under which a key may exist: none, then each choice of its group."""
    group = re.split(r"[./]", key)[0]
    yield []
    yield from ([f"{group}={choice}"] for choice in choices(group))
    yield from (["objective=beta", f"objective/schedule={choice}"] for choice in choices("objective/schedule"))
    yield from ([f"dataset={choice}", "dataset.path=files"] for choice in ("folder", "fasta"))


def succeeds(check, *given):
    try:
        check(*given)
    except (AssertionError, *USER_ERRORS):
        return False
    return True


def another_command_takes(key, value):
    for module in (f"vae.{module}" for module in OTHER_MODULES):
        keys = {field.alias or key: field for key, field in arguments_model(module).Arguments.model_fields.items()}
        required = [f"{other}=x" for other, field in keys.items() if field.is_required() and other != key]
        if key in keys and (not value or succeeds(check_module, module, [*required, f"{key}={value}"])):
            return True
    return False


def is_key(context, key):
    """Whether the config with these choices has the key. It is composed once for all keys."""
    if key.startswith(("hydra", "trainer.")) or (CONF / key).is_dir():
        return True
    if not succeeds(composed, tuple(context)):
        return False
    section, _, name = key.rpartition(".")
    return name in (OmegaConf.select(composed(tuple(context)), section) or {})


def train_takes(context, key, value):
    """Whether the key composes with these choices; without a value, whether it exists."""
    if not is_key(context, key):
        return False
    if value:
        return succeeds(check_train, [*context, f"{key}={value}"])
    return succeeds(composed, (*context, f"{key}=null"))


@pytest.mark.parametrize(("page", "span"), list(keys_in_text()), ids=lambda value: value)
def test_keys_in_the_text_exist(page, span):
    assert page
    key, _, value = span.partition("=")
    key = key.replace("__", ".")  # a keyword argument in Python
    if (
        key in ("resume", "sweep", "hydra/launcher", "hydra.searchpath")
        or example(span)
        or (not value and (CONF / key).is_dir())
    ):
        return
    assert another_command_takes(key, value) or any(train_takes(context, key, value) for context in contexts(key))
