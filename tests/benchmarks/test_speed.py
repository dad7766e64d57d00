"""benchmarks/speed.py and startup.py: loops take turns of one epoch, and ratios are taken within a round."""

import sys

import pytest

from vae.config.schema import CONF

sys.path.append(str(CONF.parent / "benchmarks"))
import speed
import startup

SCRIPT = """
import os, sys
for epoch in range(int(os.environ["EPOCHS"])):
    with open("turns", "a") as turns:
        turns.write(f"{sys.argv[0][0]}{epoch + 1} ")
    print("epoch", epoch + 1)
    assert os.environ["DIGITS"] == "digits.npz"
    sum(range(2_000_000))
print("test", -100.5)
"""

TRAIN = """
import json, pathlib, sys
keys = dict(arg.split("=") for arg in sys.argv[1:])
for epoch in range(int(keys.get("trainer.max_epochs", 10**9))):
    print("epoch", epoch + 1, flush=True)
    sum(range(2_000_000))
run = pathlib.Path(keys["hydra.run.dir"])
run.mkdir(parents=True)
(run / "summary.json").write_text(json.dumps({"test/elbo": -99.0}))
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Set up a benchmark of two loops; return the empty folder for their scripts."""
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    monkeypatch.setattr(speed, "OUT", tmp_path / "out")
    monkeypatch.setattr(speed, "prepare_digits", lambda: {"MNIST": "raw", "DIGITS": "digits.npz"})
    monkeypatch.setattr(speed, "LOOPS", {"plain": "a plain loop", "jax_scan": "another"})
    loops = tmp_path / "benchmarks" / "loops"
    loops.mkdir(parents=True)
    return loops


def test_loops_take_turns(bench, capsys):
    for name in speed.LOOPS:
        (bench / f"{name}.py").write_text(SCRIPT)
    table = speed.time_loops(sys.executable, 4)
    turns = (bench / "turns").read_text().split()
    later = [turn for turn in turns if turn[1] in "34"]  # a loop may run its first epochs before it is paused
    assert later == ["p3", "j3", "p4", "j4"]
    assert [line.split()[4] for line in capsys.readouterr().out.splitlines()] == ["plain", "jax_scan"] * 4
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [(row[0], row[4]) for row in rows] == [("a plain loop", "-100.50"), ("another", "-100.50")]
    assert rows[0][2] == "1.00"
    assert all(int(row[5]) > 1 for row in rows)


def test_the_default_is_killed_and_not_tested(bench, monkeypatch):
    monkeypatch.setattr(
        speed, "LOOPS", {"plain": "a plain loop", "train": "the default", "train_uncompiled": "another"}
    )
    (bench / "plain.py").write_text(SCRIPT)
    (bench.parent.parent / "train.py").write_text(TRAIN)
    table = speed.time_loops(sys.executable, 3)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [(row[0], row[4]) for row in rows[1:]] == [("the default", ""), ("another", "-99.00")]


def test_a_failing_loop_stops_the_benchmark(bench):
    (bench / "plain.py").write_text(SCRIPT)
    (bench / "jax_scan.py").write_text("raise SystemExit(1)")
    with pytest.raises(SystemExit, match=r"jax_scan.py: ended too early"):
        speed.time_loops(sys.executable, 2)


def test_the_ratio_is_the_median_over_rounds_except_the_first_two(bench, monkeypatch):
    seconds = {"plain": [9.0, 8.0, 1.0, 2.0, 4.0], "jax_scan": [9.0, 7.0, 2.0, 2.0, 2.0]}

    class FakeLoop:
        def __init__(self, name, *_):
            self.remaining, self.seconds, self.elbo, self.memory = list(seconds[name]), [], float("nan"), 7

        def run_epoch(self):
            self.seconds.append(self.remaining.pop(0))

        def finish(self):
            self.elbo = -99.0

        def send(self, _signal):
            pass

    assert bench.exists()
    monkeypatch.setattr(speed, "Loop", FakeLoop)
    plain, other = speed.time_loops("python", 5).splitlines()[2:]
    assert plain == "| a plain loop | 2.00 | 1.00 |  | -99.00 | 7 |"
    assert other == "| another | 2.00 | 1.00 | 0.50 to 2.00 | -99.00 | 7 |"
    seconds["jax_scan"] = [9.0, 8.0, 3.0, 4.0, 4.0]
    assert speed.time_loops("python", 5).splitlines()[3].split("|")[2:4] == [" 4.00 ", " 2.00 "]


def test_a_command_is_timed_until_its_end_or_until_a_file_exists(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "ROOT", tmp_path)
    script = "import pathlib; pathlib.Path('file').touch(); sum(range(20_000_000))"
    whole = startup.time_command([sys.executable, "-c", script])
    (tmp_path / "file").unlink()
    first = startup.time_command([sys.executable, "-c", script], tmp_path / "file")
    assert 0 < first < whole
    for failing in ("raise SystemExit(1)", "pass"):
        with pytest.raises(SystemExit, match="ended too early"):
            startup.time_command([sys.executable, "-c", failing], tmp_path / "none")
