"""python -m vae.compare, on run folders made by hand; its page, in a real browser without a network."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from sweeps import made, trained

from vae import compare, runs, table
from vae.config import CONF

NASTY = "</script><img src=x onerror=alert(1)> 'é\" %{y} &lt; @data@"
SCORES = {"elbo": -100.0, "kl": 20.0, "active_units": 8, "log_px": -96.0, "log_px_se": 0.25, "bits_per_dim": 0.18}
CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(not CHROMIUM, reason="chromium, in which the page would be opened, is not on the PATH")


def scored(log_px, **others):
    return SCORES | {"log_px": log_px, "elbo": log_px - 4} | others


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Eight runs: two finished with log p(x), one with an ELBO alone, two with neither, and three that did not end."""
    place = tmp_path_factory.mktemp("outputs") / "sweep"
    both = ("samples", "reconstructions")
    made(place / "a", {"latent_dim": 10, "activation": "relu"}, scored(-94.5), records=trained(-99), pictures=both)
    made(place / "b", {"latent_dim": 2}, scored(-140.25), records=trained(-145), pictures=both[:1])
    elbo = {name: value for name, value in SCORES.items() if "px" not in name and "bits" not in name} | {"elbo": -80.0}
    made(place / "c", {"latent_dim": 5, "activation": NASTY}, elbo, records=trained(-110, axes=()))
    apart = [{"step": 50, "train/squared_error": 20.0}, {"step": 50, "val/squared_error": 19.0}]
    made(place / "d", {"objective": "autoencoder"}, {"squared_error": 18.0}, records=apart)
    renamed = {"minus_cross_entropy_less_kl": -105.0, "kl": 25.0}
    made(place / "e", {"likelihood": "grey_cross_entropy"}, renamed)
    made(place / "f", {"latent_dim": 50}, failed="diverged at step 3:\n  kl is inf", records=trained(-300, 2))
    made(place / "g", {"latent_dim": 30}, records=trained(-120, 4))
    made(place / "h", {"latent_dim": 31})
    return place


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


def test_a_run_s_folder_may_look_like_a_key(tmp_path, command):
    made(tmp_path / "latent_dim=2", {"latent_dim": 2}, SCORES)
    code, out, _ = command("latent_dim=2")
    assert code == 0
    assert out.splitlines()[-1] == "latent_dim=2/compare.csv"


def test_it_starts_without_torch_and_the_help_says_how(sweep, tmp_path):
    run = "import sys; from vae import compare; code = compare.cli(); assert 'torch' not in sys.modules; sys.exit(code)"
    call = [sys.executable, "-c", run, str(sweep), f"out={tmp_path}"]
    assert subprocess.run(call, cwd=CONF.parent, capture_output=True, timeout=60).returncode == 0
    told = subprocess.run([*call[:3], "-h"], cwd=CONF.parent, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0
    assert "outputs/sweeps/... [more folders ...] [out=FOLDER]" in told.stdout


REFUSED = {
    (): ["expected the folders of runs or sweeps"],
    ("nowhere",): ["nowhere: expected the folder of a run or of a sweep"],
    ("some/latent_dim=2",): ["some/latent_dim=2: expected the folder"],
    ("empty",): ["empty: expected the folder of a run or of a sweep"],
    ("run", "ouput=x"): ["ouput: no such key"],
    ("run", "outs=x"): ["outs: no such key; did you mean out?"],
    ("run", "out="): ["out=: expected a folder"],
    ("run", "out=run/summary.json"): ["run/summary.json"],
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_is_one_line_and_exit_code_2(arguments, tmp_path, command):
    (tmp_path / "empty").mkdir()
    made(tmp_path / "run", {"latent_dim": 2}, SCORES)
    code, _, err = command(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    for words in REFUSED[arguments]:
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


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*flags, "--disable-component-update", "--disable-sync"]
        )
        yield found
        found.close()


@pytest.fixture
def opened(browser, command):
    """Compare a folder and open the page, with no network; the test fails on any error in it."""
    errors = []
    context = browser.new_context(viewport={"width": 1366, "height": 768}, offline=True)

    def open_page(folder):
        assert command(folder, "out=.")[0] == 0
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: errors.append(request.url) if not offline(request.url) else None)
        page.goto(compare.Path("compare.html").absolute().as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    context.close()
    assert errors == []


def offline(url):
    return url.startswith(("file:", "data:", "blob:"))


def drawn(page):
    """The runs that have a visible curve, by term: as (place in the table at first, points)."""
    return page.evaluate("""() => {
        const found = {};
        for (const trace of document.getElementById("curves-plot").data)
            if (trace.visible === true)
                (found[terms[(trace.yaxis.slice(1) || 1) - 1]] ??= []).push([trace.meta, trace.x.length]);
        return found;
    }""")


def column(page, n):
    return [text.strip() for text in page.locator(f"tbody tr:visible td:nth-child({n})").all_inner_texts()]


@in_browser
def test_every_run_is_drawn_and_can_be_hidden(sweep, opened):
    page = opened(sweep)
    # c has an ELBO alone, d (4th or 5th) squares, e no records, f and g did not end, h has not begun
    shown = drawn(page)
    places = {run["folder"][-1]: i for i, run in enumerate(content(compare.Path("compare.html"))["runs"])}
    with_elbo = sorted(places[name] for name in "abcfg")
    assert sorted(shown["elbo"]) == sorted(
        [place, {places["f"]: 2, places["g"]: 4}.get(place, 10)] for place in with_elbo
    )
    assert [place for place, _ in shown["kl"]] == with_elbo
    assert shown["squared_error"] == [[places["d"], 1]]
    assert page.locator("#curves-plot .legendtext").count() == 6
    assert page.locator("#curves-plot .scatterlayer .js-line").count() == 15

    page.select_option("#split", "train")
    assert [points for place, points in drawn(page)["elbo"] if place < 3] == [100, 100, 100]
    page.select_option("#axis", "seconds")
    assert [place for place, _ in drawn(page)["elbo"]] == sorted(places[name] for name in "abfg")
    first = page.evaluate("document.getElementById('curves-plot').data[0].x.slice(0, 2)")
    assert first == [0.5, 1.0]
    page.select_option("#axis", "images_seen")
    assert page.evaluate("document.getElementById('curves-plot').data[0].x[0]") == 10_000
    page.select_option("#split", "both")
    assert [place for place, _ in drawn(page)["kl"]].count(0) == 2
    page.select_option("#axis", "step")
    page.select_option("#split", "val")

    page.get_by_label(re.compile("^show latent_dim=2 ")).uncheck()
    assert 1 not in [place for place, _ in drawn(page)["elbo"]]
    assert page.evaluate("document.getElementById('parallel-plot').data[0].dimensions[0].values") == [10]
    assert page.locator("article:visible").count() == 7
    page.locator("#curves-plot .legendtoggle").first.click()
    page.wait_for_function("document.getElementById('curves-plot').data[0].visible === 'legendonly'")
    assert not page.locator("tbody tr input").first.is_checked()
    assert 0 not in [place for place, _ in drawn(page)["log_likelihood"]]
    page.get_by_label("show all rows or none").uncheck()
    assert drawn(page) == {}
    page.get_by_label("show all rows or none").check()
    assert drawn(page) == shown


@in_browser
def test_the_table_sorts_and_filters(sweep, opened):
    page = opened(sweep)
    assert column(page, 2)[:3] == ["10", "2", "5"]
    page.get_by_role("button", name="latent_dim").click()
    assert column(page, 2) == ["2", "5", "10", "20", "20", "30", "31", "50"]
    page.get_by_role("button", name="latent_dim").press("Enter")
    assert column(page, 2) == ["50", "31", "30", "20", "20", "10", "5", "2"]
    assert page.locator("th[aria-sort=descending]").inner_text() == "latent_dim"
    page.get_by_role("button", name="log_px").click()
    assert column(page, 6)[:3] == ["-140.25 ± 0.25", "-94.50 ± 0.25", "\u2013"]
    assert NASTY in column(page, 3)
    assert page.locator("tr.best").count() == 1
    page.fill("#filter", "INF 50")
    assert column(page, 2) == ["50"]
    assert "diverged at step 3" in column(page, 12)[0]
    assert page.locator("#count").inner_text() == "1 of 8"
    assert page.locator("article:visible").count() == 1
    assert page.locator("article:visible").inner_text().count("is missing") == 2
    page.fill("#filter", "")
    assert page.locator("article img").count() == 3
    assert page.locator("article img[loading=lazy]").count() == 3
    page.locator("article img").first.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('article img').naturalWidth === 400")


@in_browser
def test_the_heat_map_has_the_means_of_the_chosen_keys(tmp_path, opened):
    for i, (dim, seed, log_px) in enumerate([(10, 0, -90.0), (10, 1, -94.0), (2, 0, -140.0), (2, 1, -150.0)]):
        typed = {"latent_dim": dim, "seed": seed, "activation": NASTY if dim == 2 else "relu"}
        made(tmp_path / "sweep" / str(i), typed, scored(log_px, kl=float(i)))
    page = opened(tmp_path / "sweep")
    heat = "(({ x, y, z }, { xaxis, yaxis }) => [xaxis.ticktext, yaxis.ticktext, z])"
    plot = "document.getElementById('heat-plot')"
    read = f"{heat}({plot}.data[0], {plot}.layout)"
    assert page.evaluate(read) == [["2", "10"], ["0", "1"], [[-140, -90], [-150, -94]]]
    page.select_option("#down", label="(nothing)")
    assert page.evaluate(read) == [["2", "10"], [""], [[-145, -92]]]
    page.select_option("#across", "seed")
    page.select_option("#metric", "test/kl")
    assert page.evaluate(read) == [["0", "1"], [""], [[1, 2]]]
    page.select_option("#down", "latent_dim")
    page.get_by_label("show all rows or none").uncheck()
    page.get_by_label(re.compile("^show latent_dim=10 seed=1")).check()
    assert page.evaluate(read) == [["1"], ["10"], [[1]]]
    assert page.locator("#parallel-plot .axis-title").all_text_contents() == [
        "latent_dim",
        "seed",
        "activation",
        "test/kl",
    ]
    page.get_by_label("show all rows or none").check()
    ticks = page.locator("#parallel-plot").evaluate("node => node.textContent")
    assert "</script><img src" in ticks
    assert "&#" not in ticks
    assert page.locator("[data-title^=Share]").count() == 0


@in_browser
def test_no_finished_run_or_no_difference_is_a_page_too(tmp_path, opened):
    made(tmp_path / "sweep" / "a", {"latent_dim": 2}, failed="no memory")
    page = opened(tmp_path / "sweep")
    assert column(page, 2) == ["failed\nno memory"]
    assert "differ in nothing" in page.locator("#parameters-note").inner_text()
    assert not page.locator("#heat-plot").is_visible()


@in_browser
def test_a_hundred_runs_open_within_seconds_in_a_file_of_some_megabytes(tmp_path, opened):
    for i in range(100):
        typed = {"latent_dim": 2 + i % 10, "seed": i // 10}
        made(tmp_path / "sweep" / str(i), typed, scored(-90.0 - i), records=trained(-100 - i, 60), pictures=["samples"])
    begun = time.monotonic()
    page = opened(tmp_path / "sweep")
    assert len(drawn(page)["elbo"]) == 100
    assert page.locator("tbody tr").count() == 100
    assert time.monotonic() - begun < 20  # made and opened
    assert page.evaluate("performance.now()") < 10_000
    assert compare.Path("compare.html").stat().st_size < 20e6
    colours = page.evaluate("new Set(document.getElementById('curves-plot').data.map(trace => trace.line.color)).size")
    assert colours == 100
