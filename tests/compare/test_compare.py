"""python -m vae.compare, on run folders made by hand."""

import csv
import json
import re
import subprocess
import sys

import pytest
from made_up_runs import NASTY, SCORES, made, mixed, scored, trained

from vae.compare import __main__ as compare
from vae.config.schema import CONF
from vae.runs import results_table as table
from vae.runs import run_folder as runs


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return mixed(tmp_path_factory.mktemp("outputs") / "sweep")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
        code = compare.cli()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def cells(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(page):
    """The data in a page; the nasty value has not ended its script."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.S)
    return json.loads(found)


def test_the_best_comes_first_and_what_did_not_end_last(sweep):
    rows = table.rows(runs.find([sweep]))
    assert [row.run.folder.name for row in rows[:3]] == ["a", "b", "c"]
    assert {row.run.folder.name for row in rows[3:5]} == {"d", "e"}
    assert [row.run.status for row in rows[5:]] == ["unfinished", "unfinished", "failed"]
    assert [row.run.folder.name for row in rows if row.best] == ["a"]
    assert list(rows[0].values) == ["latent_dim", "activation", "objective", "likelihood"]
    assert rows[0].run.value("experiment") is None


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_terminal_gets_a_table_that_fits(sweep, width):
    lines = table.text(runs.find([sweep]), width).splitlines()
    assert max(map(len, lines)) <= width or lines[-1].startswith("* the best")
    first = lines[1].split()
    assert [first[0], *first[1:7], first[-1]] == ["*", "-94.50", "0.25", "-98.50", "20.00", "8", "50", "finished"]
    assert " ".join(lines[2].split()) == "latent_dim=10 activation=relu objective=elbo likelihood=bernoulli"
    assert " ".join(line.strip() for line in lines).count("diverged at step 3: kl is inf") == 1
    assert lines[-1] == f"* the best: {sweep / 'a'}"


def test_what_differs_has_columns_where_there_is_room(tmp_path):
    for dim, log_px in ((2, -140.0), (10, -95.0), (20, float("nan"))):
        made(tmp_path / str(dim), {"latent_dim": dim, "seed": 1}, scored(log_px), records=trained(log_px, axes=()))
    lines = table.text(runs.find([tmp_path]), 80).splitlines()
    assert lines[:3] == [
        "   latent_dim   log_px    +-     elbo     kl  active  seconds  status",
        "*          10   -95.00  0.25   -99.00  20.00       8        -  finished",
        "            2  -140.00  0.25  -144.00  20.00       8        -  finished",
    ]
    assert lines[3].split()[:2] == ["20", "nan"]


def test_nats_compare_only_on_the_same_pixels_and_of_one_kind(tmp_path):
    made(tmp_path / "a", {"dataset": "frey", "seed": 1}, scored(900.0) | {"seed": 1})
    made(tmp_path / "b", {"dataset": "mnist"}, scored(-90.0))
    made(tmp_path / "c", {"dataset": "mnist", "seed": 1}, scored(-91.0))
    made(tmp_path / "d", {"dataset.binarize": "static"}, scored(-93.0))
    density = {name: value for name, value in scored(700.0).items() if name != "bits_per_dim"}
    made(tmp_path / "e", {"dataset": "frey", "likelihood": "gaussian"}, density)
    found = runs.find([tmp_path])
    assert [row.run.folder.name for row in table.rows(found) if row.best] == ["a", "e", "b", "d"]
    last = table.text(found, 120).splitlines()[-1]
    assert "the best of dataset=mnist dataset.binarize=static values=probability" in last


def test_runs_of_the_same_config_are_told_apart_by_their_folders(tmp_path):
    for place, dim in {"one/x": 3, "two/x": 3, "zero": 4}.items():
        made(tmp_path / place, {"latent_dim": dim}, scored(-99.0))
    found = runs.find([tmp_path])
    assert [row.name for row in table.rows(found)] == ["latent_dim=3 one/x", "latent_dim=3 two/x", "latent_dim=4"]
    assert "latent_dim=3 two/x" in table.text(found, 120)
    assert [row.name for row in table.rows(found[:2])] == ["one/x", "two/x"]
    assert [row.name for row in table.rows(found[:1])] == ["x"]


def test_the_csv_has_a_row_a_run(sweep, command, tmp_path):
    code, out, err = command(sweep, "out=here/and there")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["here/and there/compare.html", "here/and there/compare.csv"]
    assert sorted(path.name for path in (tmp_path / "here/and there").iterdir()) == ["compare.csv", "compare.html"]
    rows = cells(tmp_path / "here/and there" / "compare.csv")
    about = ["folder", "status", "reason", "latent_dim", "activation", "objective", "likelihood"]
    assert list(rows[0])[:7] == about
    assert list(rows[0])[-1] == "seconds"
    assert [rows[0][name] for name in ("test/log_px", "test/elbo", "seconds")] == ["-94.5", "-98.5", "50.0"]
    assert rows[2]["activation"] == NASTY
    assert rows[2]["test/log_px"] == rows[2]["seconds"] == ""
    failed = {row["status"]: row for row in rows}["failed"]
    assert (failed["reason"], failed["latent_dim"]) == ("diverged at step 3:\n  kl is inf", "50")
    assert len(rows) == 8


def test_the_page_has_the_numbers_of_the_folders(sweep, command):
    assert command(sweep, sweep / "a", "out=.")[0] == 0
    page = compare.Path("compare.html")
    data = content(page)
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page.read_text("utf-8").replace("<img src=x", ""))
    assert len(data["runs"]) == 8
    a, b, c = data["runs"][:3]
    assert a["metrics"]["test/log_px"] == -94.5
    assert (a["best"], b["best"]) == (True, False)
    assert c["values"]["activation"] == NASTY
    assert a["curves"]["val"]["images_seen"] == [100_000 * epoch for epoch in range(1, 11)]
    assert a["curves"]["val"]["elbo"][-1] == pytest.approx(-100 - 200 * 0.96**100, abs=1e-3)
    assert len(a["curves"]["train"]["kl"]) == 100
    assert "images_seen" not in c["curves"]["train"]
    assert data["terms"] == ["elbo", "kl", "log_likelihood", "squared_error"]
    assert [bool(run["pictures"]["reconstructions"]) for run in data["runs"]] == [True] + [False] * 7


def test_long_curves_are_thinned_to_their_last_point(tmp_path, command):
    records = [{"step": step, "train/elbo": float(step)} for step in range(1, 1503)]
    made(tmp_path / "run", {"latent_dim": 2}, records=[*records, {"step": 1503, "train/elbo": float("-inf")}])
    assert command("run")[0] == 0
    (run,) = content(tmp_path / "run" / "compare.html")["runs"]
    steps, values = run["curves"]["train"]["step"], run["curves"]["train"]["elbo"]
    assert len(steps) <= 500
    assert (steps[:2], steps[-1], values[:2], values[-1]) == ([1, 5], 1503, [1, 5], None)


def test_a_picture_that_cannot_be_read_is_missing(tmp_path, command):
    folder = made(tmp_path / "run", {"latent_dim": 2}, SCORES, pictures=["samples", "reconstructions"])
    (folder / "figures" / "samples.png").write_bytes(b"nothing")
    assert command("run")[0] == 0
    (run,) = content(folder / "compare.html")["runs"]
    assert run["pictures"]["samples"] is None
    assert run["pictures"]["reconstructions"].startswith("data:image/webp;base64,")


def test_folders_may_be_given_from_the_root_and_from_here(tmp_path, command):
    for name in ("one", "two"):
        made(tmp_path / name / "x", {"latent_dim": 2}, SCORES)
    code, out, err = command("one", tmp_path / "two", tmp_path / "one" / "x")
    assert (code, err) == (0, "")
    assert [run["name"] for run in content(tmp_path / "one" / "compare.html")["runs"]] == ["one/x", "two/x"]
    assert out.splitlines()[-2:] == ["one/compare.html", "one/compare.csv"]


def test_a_run_s_folder_may_look_like_a_key(tmp_path, command):
    made(tmp_path / "latent_dim=2", {"latent_dim": 2}, SCORES)
    code, out, _ = command("latent_dim=2")
    assert code == 0
    assert out.splitlines()[-1] == "latent_dim=2/compare.csv"


def test_it_starts_without_torch_and_the_help_says_how(sweep, tmp_path):
    run = "import sys; from vae.compare.__main__ import cli; code = cli(); sys.exit(code or 'torch' in sys.modules)"
    call = [sys.executable, "-c", run, str(sweep), f"out={tmp_path}"]
    assert subprocess.run(call, cwd=CONF.parent, capture_output=True, timeout=60).returncode == 0
    told = subprocess.run([*call[:3], "-h"], cwd=CONF.parent, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0
    assert "outputs/sweeps/... [more folders ...] [out=FOLDER]" in told.stdout


USER_ERRORS = {
    (): ["expected the folders of runs or sweeps"],
    ("nowhere",): ["nowhere: expected the folder of a run or of a sweep"],
    ("some/latent_dim=2",): ["some/latent_dim=2: expected the folder"],
    ("empty",): ["empty: expected the folder of a run or of a sweep"],
    ("run", "ouput=x"): ["ouput: no such key"],
    ("run", "outs=x"): ["outs: no such key; did you mean out?"],
    ("run", "out="): ["out=: expected a folder"],
    ("run", "out=run/summary.json"): ["run/summary.json"],
}


@pytest.mark.parametrize("arguments", USER_ERRORS)
def test_what_cannot_be_is_one_line_and_exit_code_2(arguments, tmp_path, command):
    (tmp_path / "empty").mkdir()
    made(tmp_path / "run", {"latent_dim": 2}, SCORES)
    code, _, err = command(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    for words in USER_ERRORS[arguments]:
        assert words in err


DAMAGED = {
    "summary.json": ["{", "[1]", '{"test/elbo": "much"}'],
    ".hydra/config.yaml": ["a: ["],
    ".hydra/hydra.yaml": ["a: 1"],
    "metrics.csv": ["step,train/elbo\n1,x\n", "step\n1,2\n", "step\n\0\n"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in DAMAGED.items() for text in texts])
def test_what_is_damaged_is_one_line(name, text, tmp_path, command):
    folder = made(tmp_path / "run", {"latent_dim": 2}, SCORES)
    (folder / name).write_text(text)
    code, out, err = command("run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "damaged" in err
    assert name.split("/")[0] in err
    assert not list(folder.glob("compare*"))
