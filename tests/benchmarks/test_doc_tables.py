"""The tables and figures that the benchmarks write into docs/."""

import itertools
import subprocess
import sys
from datetime import date
from functools import partial

import matplotlib.image
import pytest
import torch

from vae.config.schema import CONF

sys.path.append(str(CONF.parent / "benchmarks"))
import batched_models
import costs
import doc_tables
import estimator
import gpu
import results
import scaling
import speed
import startup
import step_budget

HEADERS = {
    "results_cpu": results.HEADER,
    "results_full": results.HEADER,
    "loops": speed.LOOPS_HEADER,
    "startup": startup.HEADER,
    "costs": costs.HEADER,
    "batched_models": batched_models.HEADER,
    "step_budget": step_budget.HEADER,
}


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Return the folder that the benchmarks write to instead of docs/tables."""
    monkeypatch.setattr(doc_tables, "TABLES", tmp_path / "docs" / "tables")
    for module in (costs, scaling, gpu, speed):
        monkeypatch.setattr(module, "OUT", tmp_path / "outputs")
    return tmp_path / "docs" / "tables"


def parse(text):
    """Return the cells of all rows of a Markdown table but the separator, and the last line of the file."""
    table, machine = text.rstrip("\n").split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[1] == ["---"] * len(rows[0])
    assert {len(row) for row in rows} == {len(rows[0])}
    return [rows[0], *rows[2:]], machine


def test_write_table(tables):
    table = doc_tables.markdown_table(["a", "b"], [["1", ""], ["2", "x"]])
    doc_tables.write_table("new", table, "a machine")
    assert (tables / "new.md").read_text() == "| a | b |\n|---|---|\n| 1 |  |\n| 2 | x |\n\na machine.\n"


def test_times_are_compared_with_those_of_the_table_before(tables):
    def table(*seconds):
        return doc_tables.markdown_table(["loop", "note", "s"], [[f"row {i}", "x", n] for i, n in enumerate(seconds)])

    path = doc_tables.write_times("new", table("1.0", "2", "4.00"), "a fast machine")
    assert path.endswith("new.md")
    line = doc_tables.write_times("new", table("3.0", "5.00", "80", "7"), "a slow machine")
    assert line == f"{path}: 3.00 times those of a fast machine."
    assert (tables / "new.md").read_text().endswith("| row 3 | x | 7 |\n\na slow machine.\n")


def test_describe_machine_names_date_device_and_versions():
    text = doc_tables.describe_machine()
    assert text.startswith(f"{date.today()}, ")
    assert " cores; Python 3." in text
    assert f"torch {torch.__version__.partition('+')[0]}" in text
    assert "a GPU; Python" in doc_tables.describe_machine("a GPU")


@pytest.mark.parametrize("path", sorted(doc_tables.TABLES.glob("*.md")), ids=lambda path: path.stem)
def test_the_tables_of_the_documentation_have_the_columns_of_their_benchmark(path):
    (header, *rows), machine = parse(path.read_text())
    assert header == HEADERS.get(path.stem, header)
    assert rows
    assert machine


def test_costs(tables, monkeypatch):
    monkeypatch.setattr(costs, "GROUPS", [["", "architecture=conv"], ["experiment=a", "prior=b"]])
    monkeypatch.setattr(costs, "PICTURES", {"": (1, 28, 28)})
    calls = []

    def seconds_per_image(*arguments):
        calls.append(arguments)
        return len(calls) * 1e-5

    monkeypatch.setattr(costs, "seconds_per_image", seconds_per_image)
    costs.main()
    assert calls[6:] == [("experiment=a", "prior=b", f"compile={value}") for value in ("false", "true")]
    rows, machine = parse((tables / "costs.md").read_text())
    assert rows == [
        costs.HEADER,
        ["the default", "10", "1.0", "20", "2.00"],
        ["`architecture=conv`", "30", "3.0", "40", "1.33"],
        ["`experiment=a`", "50", "1.0", "60", "1.20"],
        ["`experiment=a prior=b`", "70", "1.4", "80", "1.14"],
    ]
    assert machine == f"{doc_tables.describe_machine()}."


class FakeTraining:
    """A process that writes one more row each time it is asked whether it has ended, and then ends."""

    def __init__(self, speeds, interval):
        self.file, self.speeds, self.returncode = costs.OUT / "cost" / "metrics.csv", list(speeds), 2
        self.killed, self.clock = False, itertools.count(3, interval).__next__

    def poll(self):
        if not self.speeds:
            return self.returncode
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write("step,seconds,images_per_second\n" if not file.tell() else "")
            file.write(f"0,{self.clock()},{self.speeds.pop(0)}\n")
        return None

    def kill(self):
        self.killed = True

    __enter__, __exit__ = lambda self: self, lambda *_: None


def seconds_per_image(monkeypatch, *speeds, interval=1):
    """Measure a training whose intervals take `interval` seconds."""
    training = FakeTraining(speeds, interval)
    monkeypatch.setattr(costs, "MIN_INTERVALS", 4)
    monkeypatch.setattr(costs, "MAX_INTERVALS", 6)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: training)
    return costs.seconds_per_image(), training.killed


@pytest.mark.usefixtures("tables")
def test_seconds_per_image_is_the_median_without_the_first_interval(monkeypatch):
    assert seconds_per_image(monkeypatch, 1, 200, "", 100, 400, 300, 500, 600) == (1 / 300, True)


@pytest.mark.usefixtures("tables")
def test_slow_trainings_have_fewer_intervals(monkeypatch):
    assert seconds_per_image(monkeypatch, 1, 200, 100, 400, 500, 600, interval=3) == (1 / 200, True)


@pytest.mark.usefixtures("tables")
def test_a_training_that_fails_ends_the_table_of_costs(monkeypatch):
    with pytest.raises(subprocess.CalledProcessError, match="status 2"):
        seconds_per_image(monkeypatch, 1, 200, 100)


def test_batched_models(tables, monkeypatch):
    monkeypatch.setattr(batched_models, "SIZES", [(8, 3)])
    times = iter([9.0, 9.0] + [0.002, 0.003] * 5 + [1.0] * 24)
    monkeypatch.setattr(batched_models, "seconds_per_step", lambda _step: next(times))
    batched_models.main()
    rows, _ = parse((tables / "batched_models.md").read_text())
    assert rows[:2] == [batched_models.HEADER, ["8", "3", "2", "2.0", "3.0", "1.50"]]
    assert [row[2] for row in rows[1:]] == ["2", "4", "8"]


def test_scaling_writes_its_figure(tmp_path, tables, monkeypatch):
    assert not tables.exists()
    monkeypatch.setattr(scaling, "FIGURE", tmp_path / "docs" / "images" / "scaling.png")
    monkeypatch.setattr(scaling, "train_seconds", lambda _keys, sizes: 1e-6 * sum(sizes.values()))
    monkeypatch.setattr(scaling, "product_seconds", lambda **sizes: 5e-7 * sum(sizes.values()))
    scaling.main()
    height, width, _ = matplotlib.image.imread(tmp_path / "docs" / "images" / "scaling.png").shape
    assert width > 2 * height


def test_estimator_prints_a_table(monkeypatch, capsys):
    monkeypatch.setattr(estimator, "configure_torch", lambda: None)
    monkeypatch.setattr(estimator, "compiled_draws", lambda *_: None)
    monkeypatch.setattr(estimator, "ROUNDS", 2)
    times = iter([9.0, 9.0, 9.0, 2.0, 3.0, 2.5])
    monkeypatch.setattr(estimator, "seconds", lambda _function: next(times))
    estimator.main("cpu")
    rows, _ = parse(capsys.readouterr().out + "\nmachine")
    assert rows[0][0] == "log p(x), K = 5000"
    assert rows[1:] == [["`compile=false`", "30", "1.50"], ["`compile=true`", "25", "1.25"]]


def test_gpu(tables, monkeypatch):
    monkeypatch.setattr(gpu, "training_loops", lambda: {"a": lambda batch: 1e5 / batch, "b": lambda batch: 10 * batch})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: None)
    gpu.main([20, 100])
    rows, machine = parse((tables / "gpu.md").read_text())
    assert rows == [["steps per second", "batch 20", "batch 100"], ["a", "5,000", "1,000"], ["b", "200", "1,000"]]
    assert ", a GPU; Python" in machine


def test_the_parts_of_a_step_add_up_to_it(tables, monkeypatch):
    monkeypatch.setattr(step_budget, "parts", dict)
    measured = {
        "matrix products": 1e-3,
        "forward and backward": 3e-3,
        "Adam": 5e-4,
        "images": 2e-4,
        "validation": 1.1e-3,
    }
    monkeypatch.setattr(step_budget, "measure", lambda _parts: measured)
    monkeypatch.setattr(step_budget, "seconds_per_image", lambda key: {"compile=true": 2e-5}[key])
    step_budget.main()
    rows, _ = parse((tables / "step_budget.md").read_text())
    assert [row[1:] for row in rows[1:]] == [
        ["1000", "25%"],
        ["2000", "50%"],
        ["500", "12%"],
        ["200", "5%"],
        ["300", "8%"],
        ["4000", "100%"],
        ["100", "2%"],
    ]


def test_the_parts_of_a_step_take_turns():
    calls = []
    seconds = step_budget.measure({name: partial(calls.append, name) for name in "ab"})
    assert calls == (["a"] * step_budget.STEPS + ["b"] * step_budget.STEPS) * step_budget.ROUNDS
    assert list(seconds) == ["a", "b"]


def test_a_median_is_shown_with_the_range():
    assert doc_tables.median_and_range([0.5, 3.0, 1.26], 1) == ["1.3", "0.5 to 3.0"]


def test_speed_writes_two_tables(tables, monkeypatch):
    table = doc_tables.markdown_table(["a"], [["1"]])
    monkeypatch.setattr(speed, "time_estimator", lambda: table)
    monkeypatch.setattr(speed, "time_loops", lambda peers, epochs: table.replace("1", f"{peers} {epochs}"))
    monkeypatch.setattr(speed, "peer_versions", lambda _peers: "jax 1")
    speed.main("python", 3)
    assert sorted(path.name for path in tables.iterdir()) == ["estimator.md", "loops.md"]
    rows, machine = parse((tables / "loops.md").read_text())
    assert rows == [["a"], ["python 3"]]
    assert machine.endswith(", jax 1.")


def test_the_first_start_is_not_counted(tables, monkeypatch):
    times = iter([9.0, 1.0, 4.0, 2.0, 9.0, 5.0, 5.0, 5.0])
    timed = []

    def time_command(command, until):
        timed.append((command, until))
        return next(times)

    monkeypatch.setattr(startup, "RUN", tables / "run")
    monkeypatch.setattr(startup, "commands", lambda: {"a": (["x"], None), "b": (["y"], startup.FIRST_STEP)})
    monkeypatch.setattr(startup, "time_command", time_command)
    startup.main()
    rows, _ = parse((tables / "startup.md").read_text())
    assert rows == [startup.HEADER, ["a", "2.0", "1.0 to 4.0"], ["b", "5.0", "5.0 to 5.0"]]
    assert timed == [(["x"], None)] * 4 + [(["y"], startup.FIRST_STEP)] * 4
