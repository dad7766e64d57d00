"""python -m vae.compare, on run folders make_run without training."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import HOSTILE_TEXT, SCORES, make_history, make_mixed_runs, make_run, make_scores

from vae.compare import __main__ as compare
from vae.config.schema import CONF
from vae.runs.results_table import build_rows, format_table
from vae.runs.run_folder import RunFolder, find_runs, read_metrics


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return make_mixed_runs(tmp_path_factory.mktemp("outputs") / "sweep")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """command(*arguments) runs vae.compare in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
        code = compare.cli()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def page_data(page):
    """Return the data in a page. The hostile text must not have ended the script element."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.S)
    return json.loads(text)


def test_rows_are_sorted_from_best_to_unfinished(sweep):
    rows = build_rows(find_runs([sweep]))
    assert [row.run.folder.name for row in rows[:3]] == ["a", "b", "c"]
    assert {row.run.folder.name for row in rows[3:5]} == {"d", "e"}
    assert [row.run.status for row in rows[5:]] == ["unfinished", "unfinished", "failed"]
    assert [row.run.folder.name for row in rows if row.best] == ["a"]
    assert list(rows[0].values) == ["latent_dim", "activation", "objective", "likelihood"]
    assert rows[0].run.value("experiment") is None


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_the_terminal(sweep, width):
    lines = format_table(build_rows(find_runs([sweep])), width).splitlines()
    assert max(map(len, lines)) <= width or lines[-1].startswith("* best run")
    first = lines[1].split()
    assert [first[0], *first[1:7], first[-1]] == ["*", "-94.50", "0.25", "-98.50", "20.00", "8", "50", "finished"]
    assert " ".join(lines[2].split()) == "latent_dim=10 activation=relu objective=elbo likelihood=bernoulli"
    assert " ".join(line.strip() for line in lines).count("diverged at step 3: kl is inf") == 1
    assert lines[-1] == f"* best run: {sweep / 'a'}"


def test_differing_keys_are_columns_if_there_is_room(tmp_path):
    for dim, log_px in ((2, -140.0), (10, -95.0), (20, float("nan"))):
        make_run(
            tmp_path / str(dim),
            {"latent_dim": dim, "seed": 1},
            make_scores(log_px),
            history=make_history(log_px, axes=()),
        )
    lines = format_table(build_rows(find_runs([tmp_path])), 80).splitlines()
    assert lines[:3] == [
        "   latent_dim   log_px    +-     elbo     kl  active  seconds  status",
        "*          10   -95.00  0.25   -99.00  20.00       8        -  finished",
        "            2  -140.00  0.25  -144.00  20.00       8        -  finished",
    ]
    assert lines[3].split()[:2] == ["20", "nan"]


def test_the_best_run_is_chosen_among_comparable_scores(tmp_path):
    make_run(tmp_path / "a", {"dataset": "frey", "seed": 1}, make_scores(900.0) | {"seed": 1})
    make_run(tmp_path / "b", {"dataset": "mnist"}, make_scores(-90.0))
    make_run(tmp_path / "c", {"dataset": "mnist", "seed": 1}, make_scores(-91.0))
    make_run(tmp_path / "d", {"dataset.binarize": "static"}, make_scores(-93.0))
    density = {name: value for name, value in make_scores(700.0).items() if name != "bits_per_dim"}
    make_run(tmp_path / "e", {"dataset": "frey", "likelihood": "gaussian"}, density)
    found = find_runs([tmp_path])
    assert [row.run.folder.name for row in build_rows(found) if row.best] == ["a", "e", "b", "d"]
    last = format_table(build_rows(found), 120).splitlines()[-1]
    assert "best run with dataset=mnist dataset.binarize=static values=probability" in last


def test_runs_with_the_same_config_are_named_by_their_folders(tmp_path):
    for place, dim in {"one/x": 3, "two/x": 3, "zero": 4}.items():
        make_run(tmp_path / place, {"latent_dim": dim}, make_scores(-99.0))
    found = find_runs([tmp_path])
    assert [row.name for row in build_rows(found)] == ["latent_dim=3 one/x", "latent_dim=3 two/x", "latent_dim=4"]
    assert "latent_dim=3 two/x" in format_table(build_rows(found), 120)
    assert [row.name for row in build_rows(found[:2])] == ["one/x", "two/x"]
    assert [row.name for row in build_rows(found[:1])] == ["x"]


def test_the_csv_has_one_row_per_run(sweep, command, tmp_path):
    code, out, err = command(sweep, "out=here/and there")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["here/and there/compare.html", "here/and there/compare.csv"]
    assert sorted(path.name for path in (tmp_path / "here/and there").iterdir()) == ["compare.csv", "compare.html"]
    rows = read_csv(tmp_path / "here/and there" / "compare.csv")
    columns = ["folder", "status", "reason", "latent_dim", "activation", "objective", "likelihood"]
    assert list(rows[0])[:7] == columns
    assert list(rows[0])[-1] == "seconds"
    assert [rows[0][name] for name in ("test/log_px", "test/elbo", "seconds")] == ["-94.5", "-98.5", "50.0"]
    assert rows[2]["activation"] == HOSTILE_TEXT
    assert rows[2]["test/log_px"] == rows[2]["seconds"] == ""
    failed = {row["status"]: row for row in rows}["failed"]
    assert (failed["reason"], failed["latent_dim"]) == ("diverged at step 3:\n  kl is inf", "50")
    assert len(rows) == 8


def test_the_page_contains_the_metrics_of_the_runs(sweep, command):
    assert command(sweep, sweep / "a", "out=.")[0] == 0
    page = compare.Path("compare.html")
    data = page_data(page)
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page.read_text("utf-8").replace("<img src=x", ""))
    assert len(data["runs"]) == 8
    a, b, c = data["runs"][:3]
    assert a["metrics"]["test/log_px"] == -94.5
    assert (a["best"], b["best"]) == (True, False)
    assert c["values"]["activation"] == HOSTILE_TEXT
    assert a["curves"]["val"]["images_seen"] == [100_000 * epoch for epoch in range(1, 11)]
    assert a["curves"]["val"]["elbo"][-1] == pytest.approx(-100 - 200 * 0.96**100, abs=1e-3)
    assert len(a["curves"]["train"]["kl"]) == 100
    assert "images_seen" not in c["curves"]["train"]
    assert data["terms"] == ["elbo", "kl", "log_likelihood", "squared_error"]
    assert [bool(run["pictures"]["reconstructions"]) for run in data["runs"]] == [True] + [False] * 7


def test_long_curves_are_thinned_and_keep_the_last_point(tmp_path, command):
    history = [{"step": step, "train/elbo": float(step)} for step in range(1, 1503)]
    make_run(tmp_path / "run", {"latent_dim": 2}, history=[*history, {"step": 1503, "train/elbo": float("-inf")}])
    assert command("run")[0] == 0
    (run,) = page_data(tmp_path / "run" / "compare.html")["runs"]
    steps, values = run["curves"]["train"]["step"], run["curves"]["train"]["elbo"]
    assert len(steps) <= 500
    assert (steps[:2], steps[-1], values[:2], values[-1]) == ([1, 5], 1503, [1, 5], None)


def test_curves_of_many_runs_have_fewer_points_and_pictures_are_linked(tmp_path, command, monkeypatch):
    monkeypatch.setattr("vae.compare.page.ALL_POINTS", 60)
    monkeypatch.setattr("vae.compare.page.EMBEDDED", 1)
    for i, folder in enumerate(("a", "b c#")):
        make_run(tmp_path / folder, {"seed": i}, make_scores(-90 - i), history=make_history(-99), pictures=["samples"])
    assert command("a", "b c#", "out=page")[0] == 0
    best, other = page_data(tmp_path / "page" / "compare.html")["runs"]
    assert best["pictures"]["samples"].startswith("data:image/webp;base64,")
    assert other["pictures"] == {"samples": "../b%20c%23/figures/samples.png", "reconstructions": None}
    assert {len(run["curves"]["train"]["step"]) for run in (best, other)} == {26}  # at most 60 / 2 points


def test_means_over_seeds_are_those_of_numpy(tmp_path, command):
    scores = {2: [-120.0, -121.0, -125.0], 10: [-95.0, -97.5]}
    for latent_dim, values in scores.items():
        for seed, value in enumerate(values):
            make_run(tmp_path / f"s/{latent_dim}-{seed}", {"latent_dim": latent_dim, "seed": seed}, make_scores(value))
    make_run(tmp_path / "s/failed", {"latent_dim": 10, "seed": 7}, failure="diverged")
    code, out, _ = command("s")
    assert code == 0
    lines = [line.split() for line in out.partition("over seeds\n")[2].splitlines()[:3]]
    assert lines[0] == ["latent_dim", "seeds", "log_px", "elbo", "kl"]
    for line, latent_dim in zip(lines[1:], (10, 2), strict=True):
        mean, sd = np.mean(scores[latent_dim]), np.std(scores[latent_dim], ddof=1)
        assert line[:5] == [str(latent_dim), str(len(scores[latent_dim])), f"{mean:.2f}", "+-", f"{sd:.2f}"]
    assert page_data(tmp_path / "s" / "compare.html")["means"][0]["latent_dim"] == "10"


def test_the_work_for_a_table_grows_with_the_number_of_runs(tmp_path, monkeypatch):
    for i in range(8):
        make_run(tmp_path / str(i), {"seed": i}, make_scores(-90 - i))
    read: list[int] = []
    value = RunFolder.value
    monkeypatch.setattr(RunFolder, "value", lambda run, key: read.append(1) or value(run, key))
    runs = find_runs([tmp_path])
    build_rows(runs[:4])
    four = len(read)
    build_rows(runs)
    assert len(read) - four == 2 * four


def test_an_unreadable_picture_is_shown_as_missing(tmp_path, command):
    folder = make_run(tmp_path / "run", {"latent_dim": 2}, SCORES, pictures=["samples", "reconstructions"])
    (folder / "figures" / "samples.png").write_bytes(b"nothing")
    assert command("run")[0] == 0
    (run,) = page_data(folder / "compare.html")["runs"]
    assert run["pictures"]["samples"] is None
    assert run["pictures"]["reconstructions"].startswith("data:image/webp;base64,")


def test_absolute_and_relative_folders_can_be_mixed(tmp_path, command):
    for name in ("one", "two"):
        make_run(tmp_path / name / "x", {"latent_dim": 2}, SCORES)
    code, out, err = command("one", tmp_path / "two", tmp_path / "one" / "x")
    assert (code, err) == (0, "")
    assert [run["name"] for run in page_data(tmp_path / "one" / "compare.html")["runs"]] == ["one/x", "two/x"]
    assert out.splitlines()[-2:] == ["one/compare.html", "one/compare.csv"]


def test_a_folder_name_may_look_like_an_override(tmp_path, command):
    make_run(tmp_path / "latent_dim=2", {"latent_dim": 2}, SCORES)
    code, out, _ = command("latent_dim=2")
    assert code == 0
    assert out.splitlines()[-1] == "latent_dim=2/compare.csv"


def test_compare_does_not_import_torch_and_has_a_help_text(sweep, tmp_path):
    run = "import sys; from vae.compare.__main__ import cli; code = cli(); sys.exit(code or 'torch' in sys.modules)"
    call = [sys.executable, "-c", run, str(sweep), f"out={tmp_path}"]
    assert subprocess.run(call, cwd=CONF.parent, capture_output=True, timeout=60).returncode == 0
    shown = subprocess.run([*call[:3], "-h"], cwd=CONF.parent, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0
    assert "outputs/sweeps/... [more folders ...] [out=FOLDER]" in shown.stdout


USER_ERRORS = {
    (): ["expected one or more folders of runs or sweeps"],
    ("nowhere",): ["nowhere: expected the folder of a run or of a sweep"],
    ("some/latent_dim=2",): ["some/latent_dim=2: expected the folder"],
    ("empty",): ["empty: expected the folder of a run or of a sweep"],
    ("run", "ouput=x"): ["ouput: no such key"],
    ("run", "outs=x"): ["outs: no such key; did you mean out?"],
    ("run", "out="): ["out=: expected a folder"],
    ("run", "out=run/summary.json"): ["run/summary.json"],
}


@pytest.mark.parametrize("arguments", USER_ERRORS)
def test_a_user_error_is_one_line_and_exit_code_2(arguments, tmp_path, command):
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "run", {"latent_dim": 2}, SCORES)
    code, _, err = command(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    for words in USER_ERRORS[arguments]:
        assert words in err


DAMAGED = {
    "summary.json": ["{", "[1]", '{"test/elbo": "much"}'],
    ".hydra/config.yaml": ["a: [", ""],
    ".hydra/hydra.yaml": ["a: 1"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in DAMAGED.items() for text in texts])
def test_a_damaged_run_is_one_line_and_does_not_keep_others_from_being_compared(name, text, tmp_path, command, caplog):
    folder = make_run(tmp_path / "run", {"latent_dim": 2}, SCORES)
    (folder / name).write_text(text)
    code, out, err = command("run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert name.split("/")[0] in err
    assert not list(folder.glob("compare*"))
    make_run(tmp_path / "whole", {"latent_dim": 3}, SCORES)
    code, out, _ = command("run", "whole")
    assert (code, "best run: whole" in out) == (0, True)
    assert [record.getMessage() for record in caplog.records] == [f"skipped {err.strip()}"]
    assert "whole" in (tmp_path / "run" / "compare.csv").read_text()


@pytest.mark.parametrize(
    ("text", "elbos", "warning"),
    [
        ("step,train/elbo\n1,-5\n2,x\n", [-5], "skipped 1 damaged row"),
        ("step,train/elbo\n1,-5\n2,-6,7\n3,-4\n", [-5, -4], "skipped 1 damaged row"),
        ("step,train/elbo\n1,-5\n2,-1", [-5], "skipped 1 damaged row"),  # of -120.5: the line has no end
        ("step,train/elbo\n1,-5\n\0\0\0\0\n\0", [-5], "skipped 2 damaged rows"),
        ("garbage \udcff\n1,2\n", [], "damaged; expected a header with the column step"),
        ("", [], "damaged; expected a header with the column step"),
    ],
)
def test_damaged_rows_of_metrics_are_skipped(text, elbos, warning, tmp_path, command, caplog):
    path = make_run(tmp_path / "run", {"latent_dim": 2}, SCORES) / "metrics.csv"
    path.write_text(text, errors="surrogateescape")
    assert command("run")[0] == 0
    assert [row["train/elbo"] for row in read_metrics(path)] == elbos
    assert caplog.records[0].getMessage().endswith(f"metrics.csv: {warning}")


def test_a_file_that_may_not_be_read_is_called_so(tmp_path, command, monkeypatch):
    make_run(tmp_path / "run", {"latent_dim": 2}, SCORES)
    read_bytes = Path.read_bytes

    def refuse(path):
        if path.name == "config.yaml":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read every file
    assert command("run")[2] == "run/.hydra/config.yaml: Permission denied\n"


def test_metrics_that_may_not_be_read_are_skipped(tmp_path, command, monkeypatch, caplog):
    make_run(tmp_path / "run", {"latent_dim": 2}, SCORES, history=make_history(-90))

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("vae.runs.run_folder.read_metrics", refuse)
    assert command("run")[0] == 0
    assert caplog.records[0].getMessage() == "skipped run/metrics.csv: Permission denied"
