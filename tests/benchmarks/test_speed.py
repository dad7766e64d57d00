"""make bench: loops take turns, one epoch each, and what counts is the ratio to the plain one in the same round."""

import sys

import pytest

from vae.config.schema import CONF

sys.path.append(str(CONF.parent / "benchmarks"))
import speed

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
    """An empty benchmark, with loops to be written to its folder."""
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    monkeypatch.setattr(speed, "OUT", tmp_path / "out")
    monkeypatch.setattr(speed, "digits", lambda: {"MNIST": "raw", "DIGITS": "digits.npz"})
    monkeypatch.setattr(speed, "LOOPS", {"plain": "a plain loop", "jax_scan": "another"})
    loops = tmp_path / "benchmarks" / "loops"
    loops.mkdir(parents=True)
    return loops


def test_loops_take_turns(bench, capsys):
    for name in speed.LOOPS:
        (bench / f"{name}.py").write_text(SCRIPT)
    table = speed.side_by_side(sys.executable, 4)
    turns = (bench / "turns").read_text().split()
    later = [turn for turn in turns if turn[1] in "34"]  # the first are begun before a loop is held
    assert later == ["p3", "j3", "p4", "j4"]
    assert [line.split()[4] for line in capsys.readouterr().out.splitlines()] == ["plain", "jax_scan"] * 4
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [(row[0], row[3]) for row in rows] == [("a plain loop", "-100.50"), ("another", "-100.50")]
    assert rows[0][2] == "1.00"
    assert all(int(row[4]) > 1 for row in rows)


def test_the_default_is_cut_off_and_not_tested(bench, monkeypatch):
    monkeypatch.setattr(
        speed, "LOOPS", {"plain": "a plain loop", "train": "the default", "train_uncompiled": "another"}
    )
    (bench / "plain.py").write_text(SCRIPT)
    (bench.parent.parent / "train.py").write_text(TRAIN)
    table = speed.side_by_side(sys.executable, 3)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [(row[0], row[3]) for row in rows[1:]] == [("the default", ""), ("another", "-99.00")]


def test_a_loop_that_fails_ends_the_benchmark(bench):
    (bench / "plain.py").write_text(SCRIPT)
    (bench / "jax_scan.py").write_text("raise SystemExit(1)")
    with pytest.raises(SystemExit, match=r"jax_scan.py: ended before its time"):
        speed.side_by_side(sys.executable, 2)


def test_the_ratio_is_the_median_over_rounds_without_the_first_two(bench, monkeypatch):
    taken = {"plain": [9.0, 8.0, 1.0, 2.0, 4.0], "jax_scan": [9.0, 7.0, 2.0, 2.0, 2.0]}

    class StandIn:
        def __init__(self, name, *_):
            self.left, self.seconds, self.elbo, self.memory = list(taken[name]), [], float("nan"), 7

        def epoch(self):
            self.seconds.append(self.left.pop(0))

        def finish(self):
            self.elbo = -99.0

        def send(self, _what):
            pass

    assert bench.exists()
    monkeypatch.setattr(speed, "Loop", StandIn)
    plain, other = speed.side_by_side("python", 5).splitlines()[2:]
    assert plain == "| a plain loop | 2.00 | 1.00 | -99.00 | 7 |"
    assert other == "| another | 2.00 | 1.00 | -99.00 | 7 |"
    taken["jax_scan"] = [9.0, 8.0, 3.0, 4.0, 4.0]
    assert speed.side_by_side("python", 5).splitlines()[3].split("|")[2:4] == [" 4.00 ", " 2.00 "]


def test_a_command_is_timed_to_its_end_or_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    work = "import pathlib; pathlib.Path('made').touch(); sum(range(20_000_000))"
    whole = speed.timed([sys.executable, "-c", work])
    (tmp_path / "made").unlink()
    first = speed.timed([sys.executable, "-c", work], tmp_path / "made")
    assert 0 < first < whole
