"""YAML files that are damaged or hostile: one line that names the file and the line."""

import subprocess
import sys

import pytest
from made_up_runs import make_run
from omegaconf import OmegaConf

from vae.config.override_checks import check_keys, check_overrides
from vae.config.stored_config import read_config
from vae.config.yaml_files import parse_config, read_yaml
from vae.errors import USER_ERRORS, UserError, one_line
from vae.runs.run_folder import find_runs

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}]\n" for i in range(40))
REFERENCES = "".join(f"k{i}: {{x: '${{k{i + 1}}}', y: '${{k{i + 1}}}'}}\n" for i in range(40)) + "k40: 1\n"
HOSTILE = {
    "deep": ("[" * 100_000, "line 1: nested deeper than 50"),
    "deep mappings": ("a: " + "{a: " * 100_000, "line 1: nested deeper than 50"),
    "aliases": (LAUGHS, "line 2: alias *a0 is not allowed"),
    "interpolations": (REFERENCES, "the values of its interpolations are too large, or refer to themselves"),
    "doubled text": ("".join(f"k{i}: '${{k{i + 1}}}${{k{i + 1}}}'\n" for i in range(40)) + "k40: x\n", "are too large"),
    "circular": ("a: ${b}\nb: ${a}\n", "refer to themselves"),
    "large": ("a: 1\n" * 300_000, "1500000 bytes; expected at most 1000000"),
    "tab": ("a: 1\nb:\n\tc: 1\n", "line 3: found character that cannot start any token"),
    "duplicate key": ("a: 1\na: 2\n", "line 2: found duplicate key a"),
    "latin-1": ("a: 1\nb: caf\udce9\n", "line 2: expected text in UTF-8"),
    "no end": ("a: [1\n", "line 2: did not find expected ',' or ']'"),
    "NUL": ("a: 1\nb: \0\n", "line 2: character 0x0 is not allowed"),
    "object": ("a: 1\nb: !!python/object/apply:os.system [exit]\n", "line 2: could not determine a constructor"),
    "digits": ("a: " + "1" * 5000, "line 1: Exceeds the limit"),
    "interpolation": ("a: ${\n", "no viable alternative at input '${'"),
    "empty": ("", "damaged; expected keys and values"),
    "list": ("- a\n", "damaged; expected keys and values"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_of_a_run_is_one_line(name, tmp_path):
    text, message = HOSTILE[name]
    path = make_run(tmp_path / "run", {}) / ".hydra" / "config.yaml"
    path.write_text(text, "utf-8", errors="surrogateescape")
    with pytest.raises(UserError) as error:
        read_config(tmp_path / "run")
    line = one_line(error.value)
    assert line.startswith(f"{path}: ")
    assert message in line
    assert "\n" not in line


def test_a_byte_order_mark_is_accepted_in_a_run(tmp_path):
    path = make_run(tmp_path / "run", {}) / ".hydra" / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_config(tmp_path / "run").latent_dim == 20


def test_anchors_are_allowed_in_conf(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x [1]\nb: *x\n")
    assert read_yaml(tmp_path / "a.yaml", aliases=True) == {"a": [1], "b": [1]}


@pytest.mark.parametrize("file", ["hydra", "overrides"])
@pytest.mark.parametrize(
    "content", ["[" * 100_000, "", "a: 1", "hydra: {runtime: [1]}", "hydra: {runtime: {choices: 3}}"]
)
def test_every_file_of_a_run_is_checked(file, content, tmp_path):
    path = make_run(tmp_path / "run", {}) / ".hydra" / f"{file}.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        find_runs([tmp_path])
    assert str(error.value).startswith(f"{path}: ")


RECIPES = {
    "tab": (b"# @package _global_\nseed:\t1\n\tx: 1\n", "line 3: found a tab character"),
    "duplicate key": (b"# @package _global_\nseed: 1\nseed: 2\n", "line 3: found duplicate key seed"),
    "latin-1": (b"# @package _global_\n# caf\xe9\nseed: 1\n", "line 2: expected text in UTF-8"),
    "byte order mark": (
        b"\xef\xbb\xbf# @package _global_\nseed: 1\n",
        "line 1: expected a file without a byte order mark",
    ),
    "no package": (b"seed: 1\n", "line 1: expected the comment # @package _global_"),
    "package after the keys": (b"seed: 1\n# @package _global_\n", "line 1: expected the comment # @package _global_"),
    "empty": (b"", "line 1: empty; expected keys and values"),
    "comment": (b"# @package _global_\n", "line 1: empty; expected keys and values"),
}


@pytest.fixture
def conf(tmp_path):
    """A folder of configs of the user."""
    for group in ("experiment", "optimizer"):
        (tmp_path / "conf" / group).mkdir(parents=True)
    return tmp_path / "conf"


def check(conf, override):
    overrides = [f"hydra.searchpath=['file://{conf}']", override]
    check_overrides(overrides)
    check_keys(overrides)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_cannot_be_read_is_one_line(name, conf):
    content, message = RECIPES[name]
    (conf / "experiment" / "mine.yaml").write_bytes(content)
    with pytest.raises(USER_ERRORS) as error:
        check(conf, "experiment=mine")
    line = one_line(error.value)
    assert line.startswith(f"{conf / 'experiment' / 'mine.yaml'}: {message}")
    assert "\n" not in line


def test_a_good_recipe_is_accepted(conf):
    (conf / "experiment" / "mine.yaml").write_text("# A recipe.\n\n# @package _global_\nseed: 1\n")
    check(conf, "experiment=mine")


@pytest.mark.parametrize("content", [b"_target_: x\nlr:\t1\n\tx: 1\n", b"# caf\xe9\n_target_: x\n"])
def test_an_unreadable_file_of_another_group_is_one_line(content, conf):
    (conf / "optimizer" / "mine.yaml").write_bytes(content)
    with pytest.raises(USER_ERRORS) as error:
        check(conf, "optimizer=mine")
    assert one_line(error.value).startswith(f"{conf / 'optimizer' / 'mine.yaml'}: line ")


def test_deep_brackets_do_not_crash_the_process(tmp_path):
    """A parser that recurses ends in a segmentation fault, which only another process survives."""
    make_run(tmp_path / "good", {"latent_dim": 2})
    (make_run(tmp_path / "bad", {}) / ".hydra" / "hydra.yaml").write_text("[" * 100_000)
    command = "import sys; from vae.compare.__main__ import cli; sys.exit(cli())"
    done = subprocess.run([sys.executable, "-c", command, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0
    assert done.stderr == f"skipped {tmp_path / 'bad' / '.hydra' / 'hydra.yaml'}: line 1: nested deeper than 50\n"


def test_a_config_is_read_as_omegaconf_reads_it():
    values = [
        "1e-3",
        "1.5",
        "-.5",
        "1.",
        "5.0e-03",
        "007",
        "0x1F",
        "1_000",
        "2024-01-01",
        "yes",
        "~",
        "inf",
        ".inf",
        "a",
    ]
    text = "".join(f"k{i}: {value}\n" for i, value in enumerate(values)) + "x: [1, 1e5, {a: null}]\n"
    assert parse_config(text) == OmegaConf.to_container(OmegaConf.create(text))
