"""Names of files and folders on the command line."""

from pathlib import Path

import pytest
from hydra import compose

from vae.config.command_line import initialize_conf, parse_arguments
from vae.config.overrides import parse_override, read_arguments
from vae.config.stored_arguments import resume_arguments
from vae.errors import UserError
from vae.evaluate.__main__ import Arguments

NAMES = [
    *("plain", "a b", "a=b", "[x]", "{x}", "it's", 'a "b"', "a,b", "é"),
    *("${y}", "${oc.env:HOME}", "2024", "1e5", "true", "null"),
]


def value_of(key, typed):
    """Return the value of a key as train.py reads it."""
    with initialize_conf():
        cfg = compose("config", read_arguments(["dataset=folder", typed]))
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_folder_is_taken_literally(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name / "below").mkdir(parents=True)
    for path in (name, f"{name}/below", str(tmp_path / name)):
        assert value_of("dataset.path", f"dataset.path={path}") == path
        assert value_of("data_dir", f"data_dir={path}") == path


def test_what_is_not_a_folder_is_left_to_hydra():
    assert read_arguments(["dataset.path='a=b'", "data_dir=new", "dataset.path=a,b"]) == [
        "dataset.path='a=b'",
        "data_dir=new",
        "dataset.path=a,b",
    ]


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert value_of("dataset.path", "dataset.path=~/mine") == f"{tmp_path}/mine"
    assert value_of("data_dir", "data_dir=~/my=data") == f"{tmp_path}/my=data"
    assert read_arguments(["resume=~/run", "sweep=~/swept"]) == [f"resume={tmp_path}/run", f"sweep={tmp_path}/swept"]
    assert parse_arguments(Arguments, ["run=~/run"]).run == f"{tmp_path}/run"


TEXTS = ["dataset.path=a=b", "hydra.run.dir=outputs/a=b", "data_dir=~user/x", "logger.wandb.project=a=b"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_hydra_cannot_parse_has_a_hint_to_quote_it(text):
    key, _, value = text.partition("=")
    with pytest.raises(UserError) as error:
        parse_override(text)
    assert str(error.value).endswith(f"; quote the text: \"{key}='{value}'\"")
    assert parse_override(f"{key}='{value}'").value() == value


def test_a_number_that_cannot_be_parsed_has_no_hint():
    with pytest.raises(UserError, match=r"cannot be parsed as key=value: [^;]*$"):
        parse_override("latent_dim=a=b")


@pytest.mark.parametrize("typed", ["resume={}", "sweep={}", "hydra.run.dir={}", "seed=1"])
def test_a_dollar_brace_in_the_path_of_a_run_is_one_line(typed, tmp_path, monkeypatch):
    """Hydra itself would read an interpolation in its folders."""
    (tmp_path / "${y}").mkdir()
    monkeypatch.chdir(tmp_path / "${y}" if typed == "seed=1" else tmp_path)
    with pytest.raises(UserError, match=r"/\$\{y\}: expected a folder without \$\{ in its path"):
        read_arguments([typed.format("${y}")])


@pytest.mark.parametrize("name", ["a=b", "it's"])
@pytest.mark.slow
def test_a_run_in_a_folder_of_any_name_is_resumed(name, cli, runs, tmp_path):
    assert cli("trainer.max_epochs=1")[0] == 0
    moved = tmp_path / name
    runs()[0].rename(moved)
    before = (moved / "summary.json").read_text()
    arguments = resume_arguments([f"resume={moved}"])
    assert arguments[-1].startswith("resume='")
    assert cli(f"resume={moved}", defaults=())[0] == 0
    assert (moved / "summary.json").read_text() == before
    assert not Path("outputs", name).exists()
