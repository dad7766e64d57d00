"""Text that may come from anybody is shown on a terminal without commands for it."""

import io
import logging
import os
import subprocess
import sys

import pytest
from made_up_runs import make_run, make_scores

from vae.compare import __main__ as compare
from vae.config.command_line import parse_arguments
from vae.errors import UserError, one_line
from vae.generate.__main__ import Arguments
from vae.terminal import PrintableFormatter, printable, show

CLEAR = "\x1b[2J\x1b]0;owned\x07\x9b2J\x08\r"  # clears the screen and sets the title of the window
COMMANDS = set("\x1b\x07\x9b\x08\r")


def test_control_characters_become_escapes_and_line_breaks_stay():
    assert printable(f"a{CLEAR}\nb") == "a\\x1b[2J\\x1b]0;owned\\x07\\x9b2J\\x08\\r\nb"
    assert printable("caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{HIRAGANA LETTER A}") == "café あ"
    assert printable("a\N{RIGHT-TO-LEFT OVERRIDE}b") == "a\\u202eb"  # would show the following letters in reverse
    assert printable(os.fsdecode(b"\xe9")) == "\\udce9"
    assert printable("Screenshot 2:35\N{NARROW NO-BREAK SPACE}PM") == "Screenshot 2:35\N{NARROW NO-BREAK SPACE}PM"


def test_show_prints_no_control_character(capsys):
    show(CLEAR)
    assert not COMMANDS & set(capsys.readouterr().out)


@pytest.mark.parametrize("error", [UserError(CLEAR), OSError(2, "No such file", f"a{CLEAR}"), ValueError(CLEAR)])
def test_errors_have_no_control_character(error):
    assert not COMMANDS & set(one_line(error))


def test_an_argument_is_shown_without_control_characters():
    with pytest.raises(UserError) as error:
        parse_arguments(Arguments, [f"interpolation={CLEAR}"])
    assert not COMMANDS & set(one_line(error.value))


def test_log_records_have_no_control_character():
    record = logging.LogRecord("x", logging.INFO, "", 1, "%s", (CLEAR,), None)
    try:
        raise ValueError(CLEAR)
    except ValueError:
        record.exc_info = sys.exc_info()
    assert not COMMANDS & set(PrintableFormatter("%(message)s").format(record))


def test_the_log_of_train_py_has_no_control_character(cli, runs, tmp_path):
    _, out, _ = cli("trainer.max_epochs=1", f"hydra.run.dir='{tmp_path}/outputs/{CLEAR[:4]}'")
    assert "\\x1b[2J" in out
    assert "\x1b" not in out + (runs()[0] / "train.log").read_text()


def test_names_and_values_of_runs_are_shown_without_control_characters(tmp_path, module_cli):
    """Folder names, keys, values and errors of the runs of somebody else, and those of damaged runs."""
    make_run(tmp_path / f"a{CLEAR}", {"latent_dim": 2, "activation": CLEAR}, make_scores(-90.0))
    make_run(tmp_path / "b", {"latent_dim": 3, f"prior.x{CLEAR}": 1}, failure=CLEAR)
    (make_run(tmp_path / f"c{CLEAR}", {}) / "summary.json").write_text("{")
    code, out, err = module_cli(compare)(str(tmp_path), f"out={tmp_path}")
    assert code == 0
    assert "best run" in out
    assert not COMMANDS & set(out + err)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_terminal_cannot_show_become_escapes(encoding, tmp_path):
    name = "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{HIRAGANA LETTER A}"
    make_run(tmp_path / name, {"latent_dim": 2}, make_scores(-90.0))
    command = [sys.executable, "-c", "from vae.compare.__main__ import cli; exit(cli())", str(tmp_path)]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, b"")
    assert name.encode(encoding, "backslashreplace") in done.stdout


def test_stdout_that_is_no_terminal_is_left_alone(monkeypatch):
    from vae.terminal import escape_unencodable

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    escape_unencodable()
