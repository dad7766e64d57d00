"""The command `vae`, and the layout of a wheel, where conf/ is inside of the package."""

import importlib
import json
import shutil
import subprocess
import sys
import tomllib

import pytest
from run_outputs import ROOT

from vae import __main__ as console


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["vae", *arguments])
    monkeypatch.setattr("os._exit", sys.exit)
    try:
        code = console.main()
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_is_one_page_with_all_commands(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "--help")
    assert (code, err) == (0, "")
    assert run(monkeypatch, capsys) == (code, out, err)
    assert len(out.splitlines()) <= 24
    with_a_command_line = {path.parent.name for path in ROOT.glob("vae/*/__main__.py")} - {"training"}
    with_a_command_line |= {path.stem for path in ROOT.glob("vae/*.py") if "def cli()" in path.read_text()}
    assert set(console.COMMANDS) == {"train", *with_a_command_line}
    assert all(f"\n  vae {name} " in out for name in console.COMMANDS)


@pytest.mark.parametrize("name", [name for name in console.COMMANDS if name != "train"])
def test_help_shows_a_command_as_it_was_typed(name, monkeypatch, capsys):
    code, shown, err = run(monkeypatch, capsys, name, "--help")
    assert (code, err) == (0, "")
    assert f": vae {name} " in shown.partition("\n")[0]
    module = importlib.import_module(f"vae.{name}.__main__" if (ROOT / "vae" / name).is_dir() else f"vae.{name}")
    monkeypatch.setattr(sys, "argv", [module.__file__, "--help"])  # as python -m does
    assert module.cli() == 0
    assert capsys.readouterr().out == shown.replace(f": vae {name} ", f": python -m vae.{name} ")


def test_a_command_is_that_of_its_module(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "generate", "whta=walk")
    assert (code, out) == (2, "")
    assert "did you mean what?" in err


def test_a_wrong_command_is_one_line(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "genrate")
    assert (code, out) == (2, "")
    assert err.startswith("vae genrate: expected one of train, evaluate,")
    assert err.endswith("; did you mean generate?\n")


@pytest.mark.slow
def test_the_files_of_a_wheel_are_enough(tmp_path):
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert (wheel["packages"], wheel["force-include"]) == (["vae", "datamodules"], {"conf": "vae/conf"})
    site, empty = tmp_path / "site", tmp_path / "empty"
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, site / package)
    for source, target in wheel["force-include"].items():
        shutil.copytree(ROOT / source, site / target)
    empty.mkdir()

    def vae(*arguments):
        python = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); import vae.__main__ as m"]
        python[-1] += f"; assert m.__file__.startswith({str(site)!r}); sys.argv[0] = 'vae'; sys.exit(m.main())"
        return subprocess.run([*python, *arguments], cwd=empty, capture_output=True, text=True, timeout=300)

    trained = vae("train", "dataset=digits", "trainer.max_epochs=1", "test.K=2", "logger=csv")
    assert (trained.returncode, trained.stderr) == (0, "")
    (summary,) = (empty / "outputs").rglob("summary.json")
    assert json.loads(summary.read_text())["test/log_px"] < 0
    assert vae("compare", "outputs").returncode == 0
    wrong = vae("train", "latnt_dim=2")
    assert wrong.stderr == "latnt_dim: no such key; did you mean latent_dim? (vae train --help lists the keys)\n"
    assert vae("train", "--help").stdout.splitlines()[2] == "  vae train [key=value ...]        one run"
