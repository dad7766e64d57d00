"""compare.html in a real browser without a network, for run folders make_run without training."""

import re
import time

import pytest
from made_up_runs import HOSTILE_TEXT, make_history, make_mixed_runs, make_run, make_scores

from vae.compare.page import render_html
from vae.runs.results_table import build_rows
from vae.runs.run_folder import find_runs


@pytest.fixture
def open_page(browser, tmp_path):
    """open_page(folder) opens compare.html of the runs, offline. The test fails on any error in the page."""
    errors = []
    context = browser.new_context(viewport={"width": 1366, "height": 768}, offline=True)

    def open_in_browser(folder):
        (tmp_path / "page.html").write_text(render_html(build_rows(find_runs([folder])), tmp_path), "utf-8")
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: errors.append(request.url) if not is_local(request.url) else None)
        page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_in_browser
    context.close()
    assert errors == []


def is_local(url):
    return url.startswith(("file:", "data:", "blob:"))


def visible_curves(page):
    """Return the visible curves by term, each as (index of its run, number of points)."""
    return page.evaluate("""() => {
        const found = {};
        for (const trace of document.getElementById("curves-plot").data)
            if (trace.visible === true)
                (found[terms[(trace.yaxis.slice(1) || 1) - 1]] ??= []).push([trace.meta, trace.x.length]);
        return found;
    }""")


def column(page, n):
    return [text.strip() for text in page.locator(f"tbody tr:visible td:nth-child({n})").all_inner_texts()]


def test_every_run_has_curves_and_can_be_hidden(tmp_path, open_page):
    page = open_page(make_mixed_runs(tmp_path / "sweep"))
    # c has only an ELBO, d (4th or 5th) only squared errors, e no metrics; f and g are not finished, h has not started
    shown = visible_curves(page)
    places = {run["folder"][-1]: i for i, run in enumerate(page.evaluate("runs"))}
    with_elbo = sorted(places[name] for name in "abcfg")
    assert sorted(shown["elbo"]) == sorted(
        [place, {places["f"]: 2, places["g"]: 4}.get(place, 10)] for place in with_elbo
    )
    assert [place for place, _ in shown["kl"]] == with_elbo
    assert shown["squared_error"] == [[places["d"], 1]]
    assert page.locator("#curves-plot .legendtext").count() == 6
    assert page.locator("#curves-plot .scatterlayer .js-line").count() == 15
    assert any(HOSTILE_TEXT[:20] in text for text in page.locator("#curves-plot .legendtext").all_text_contents())

    page.select_option("#split", "train")
    assert [points for place, points in visible_curves(page)["elbo"] if place < 3] == [100, 100, 100]
    page.select_option("#axis", "seconds")
    assert [place for place, _ in visible_curves(page)["elbo"]] == sorted(places[name] for name in "abfg")
    first = page.evaluate("document.getElementById('curves-plot').data[0].x.slice(0, 2)")
    assert first == [0.5, 1.0]
    page.select_option("#axis", "images_seen")
    assert page.evaluate("document.getElementById('curves-plot').data[0].x[0]") == 10_000
    page.select_option("#split", "both")
    assert [place for place, _ in visible_curves(page)["kl"]].count(0) == 2
    page.select_option("#axis", "step")
    page.select_option("#split", "val")

    page.get_by_label(re.compile("^show latent_dim=2 ")).uncheck()
    assert 1 not in [place for place, _ in visible_curves(page)["elbo"]]
    assert page.evaluate("document.getElementById('parallel-plot').data[0].dimensions[0].values") == [10]
    assert page.locator("article:visible").count() == 7
    page.locator("#curves-plot .legendtoggle").first.click()
    page.wait_for_function("document.getElementById('curves-plot').data[0].visible === 'legendonly'")
    assert not page.locator("tbody tr input").first.is_checked()
    assert 0 not in [place for place, _ in visible_curves(page)["log_likelihood"]]
    # two clicks of playwright may be too slow for a double click
    page.evaluate(
        "(plot => plot.emit('plotly_legenddoubleclick', { curveNumber: 1, data: plot.data }))($('curves-plot'))"
    )
    assert [place for place, _ in visible_curves(page)["kl"]] == [1]
    page.get_by_label("show all runs or none").uncheck()
    assert visible_curves(page) == {}
    page.get_by_label("show all runs or none").check()
    assert visible_curves(page) == shown


def test_the_table_sorts_and_filters(tmp_path, open_page):
    page = open_page(make_mixed_runs(tmp_path / "sweep"))
    assert column(page, 2)[:3] == ["10", "2", "5"]
    page.get_by_role("button", name="latent_dim").click()
    assert column(page, 2) == ["2", "5", "10", "20", "20", "30", "31", "50"]
    page.get_by_role("button", name="latent_dim").press("Enter")
    assert column(page, 2) == ["50", "31", "30", "20", "20", "10", "5", "2"]
    assert page.locator("th[aria-sort=descending]").inner_text() == "latent_dim"
    page.get_by_role("button", name="log_px").click()
    assert column(page, 6)[:3] == ["-140.25 ± 0.25", "-94.50 ± 0.25", "\u2013"]
    assert HOSTILE_TEXT in column(page, 3)
    assert page.locator("tr.best").count() == 1
    page.fill("#filter", "INF 50")
    assert column(page, 2) == ["50"]
    assert "diverged at step 3" in column(page, 12)[0]
    assert page.locator("#count").inner_text() == "1 of 8"
    assert page.locator("article:visible").count() == 1
    assert page.locator("article:visible").inner_text().count("is missing") == 2
    page.get_by_label("show all runs or none").uncheck()
    assert page.evaluate("[...hidden].map(i => runs[i].values.latent_dim)") == [50]
    page.fill("#filter", "")
    assert page.locator("article img").count() == 3
    assert page.locator("article img[loading=lazy]").count() == 3
    page.locator("article img").first.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('article img').naturalWidth === 400")


def test_the_heat_map_shows_the_means_for_the_selected_keys(tmp_path, open_page):
    for i, (dim, seed, log_px) in enumerate([(10, 0, -90.0), (10, 1, -94.0), (2, 0, -140.0), (2, 1, -150.0)]):
        overrides = {"latent_dim": dim, "seed": seed, "activation": HOSTILE_TEXT if dim == 2 else "relu"}
        overrides["prior.components"] = None if i == 1 else 30 - i
        make_run(tmp_path / "sweep" / str(i), overrides, make_scores(log_px, kl=float(i)))
    page = open_page(tmp_path / "sweep")
    heat = "(({ x, y, z }, { xaxis, yaxis }) => [xaxis.ticktext, yaxis.ticktext, z])"
    plot = "document.getElementById('heat-plot')"
    read = f"{heat}({plot}.data[0], {plot}.layout)"
    assert page.evaluate(read) == [["2", "10"], ["0", "1"], [[-140, -90], [-150, -94]]]
    page.select_option("#down", label="(none)")
    assert page.evaluate(read) == [["2", "10"], [""], [[-145, -92]]]
    page.select_option("#across", "seed")
    page.select_option("#metric", "test/kl")
    assert page.evaluate(read) == [["0", "1"], [""], [[1, 2]]]
    page.select_option("#down", "latent_dim")
    page.get_by_label("show all runs or none").uncheck()
    page.get_by_label(re.compile("^show latent_dim=10 seed=1")).check()
    assert page.evaluate(read) == [["1"], ["10"], [[1]]]
    assert page.locator("#parallel-plot .axis-title").all_text_contents() == [
        "latent_dim",
        "seed",
        "activation",
        "prior.components",
        "test/kl",
    ]
    for order in (["27", "28", "30", "-"], ["30", "28", "27", "-"]):
        page.get_by_role("button", name="prior.components").click()
        assert column(page, 5) == order
    page.get_by_label("show all runs or none").check()
    ticks = page.locator("#parallel-plot").evaluate("node => node.textContent")
    assert HOSTILE_TEXT[:17] in ticks
    assert "&#" not in ticks
    assert page.locator("[data-title^=Share]").count() == 0


def test_markup_from_a_run_folder_is_shown_as_text(tmp_path, open_page):
    """In values, tags, keys, choices, names of metrics and folders, and errors; open_page fails if a script runs."""
    markup = "<img src=x onerror=alert(1)><b>x</b>"
    folder_name = markup.replace("/", "")
    for i in range(2):
        overrides = {"latent_dim": 2 + i, "objective": f"{markup}{i}", "prior.<b>key": f"{markup}{i}"}
        overrides["dataset.tags"] = [markup, str(i)]
        scores = make_scores(-90.0 - i) | {markup: i}
        rows = [row | {f"val/{markup}": -1.0, f"train/{markup}": -1.0} for row in make_history(-99)]
        make_run(tmp_path / "sweep" / f"{folder_name}{i}", overrides, scores, history=rows, pictures=["samples"])
    make_run(tmp_path / "sweep" / "c", {"latent_dim": 9}, failure=markup)
    page = open_page(tmp_path / "sweep")
    assert page.locator("b, img[src=x]").count() == 0
    table = page.locator("table").inner_text()
    for text in (f"{markup}0", "prior.<b>key", f'["{markup}","0"]', f"failed\n{markup}"):
        assert text in table
    assert f"test/{markup}" in page.locator("#metric option").all_inner_texts()
    assert folder_name in page.evaluate("runs.map(run => run.folder).join()")
    for select in ("across", "down", "metric"):
        for option in page.locator(f"#{select} option").all_inner_texts():
            page.select_option(f"#{select}", label=option)
    for plot in ("curves-plot", "parallel-plot", "heat-plot"):
        page.locator(f"#{plot}").hover()
        assert markup[:10] in page.locator(f"#{plot}").evaluate("node => node.textContent")
    assert page.locator("b, img[src=x]").count() == 0


def test_runs_are_labelled_by_their_values_or_if_these_are_not_unique_by_their_names(tmp_path, open_page):
    for folder, dim, log_px in (("a", 10, -90.0), ("b", 2, -140.0)):
        make_run(tmp_path / "sweep" / folder, {"latent_dim": dim}, make_scores(log_px), history=make_history(-99))
    page = open_page(tmp_path / "sweep")
    assert page.locator("#curves-plot .legendtext").all_text_contents() == ["1  10", "2  2"]
    make_run(tmp_path / "sweep" / "c", {"latent_dim": 2}, make_scores(-150.0), history=make_history(-99))
    page = open_page(tmp_path / "sweep")
    legend = ["1  latent_dim=10", "2  latent_dim=2 b", "3  latent_dim=2 c"]
    assert page.locator("#curves-plot .legendtext").all_text_contents() == legend
    page.get_by_label("show latent_dim=2 b").uncheck()
    assert [place for place, _ in visible_curves(page)["elbo"]] == [0, 2]


def test_means_over_seeds(tmp_path, open_page):
    for i, (activation, seed, log_px) in enumerate(
        [
            ("relu", 0, -90.0),
            ("relu", 1, -94.0),
            (HOSTILE_TEXT, 0, -140.0),
            (HOSTILE_TEXT, 1, -150.0),
            ("elu", 0, -99.0),
        ]
    ):
        make_run(tmp_path / "sweep" / str(i), {"activation": activation, "seed": seed}, make_scores(log_px))
    page = open_page(tmp_path / "sweep")
    rows = [row.locator("th, td").all_text_contents() for row in page.locator("#means tr").all()]
    assert rows[0] == ["activation", "seeds", "log_px", "elbo", "kl"]
    # of -90 and -94: the mean -92, and the standard deviation 2 sqrt(2)
    assert rows[1] == ["relu", "2", "-92.00 +- 2.83", "-96.00 +- 2.83", "20.00 +- 0.00"]
    assert rows[2] == ["elu", "1", "-99.00", "-103.00", "20.00"]
    assert rows[3][1:3] == ["2", "-145.00 +- 7.07"]
    assert rows[3][0].startswith(HOSTILE_TEXT[:10])
    assert page.locator("#means").is_visible()
    make_run(tmp_path / "single" / "a", {"activation": "relu", "seed": 0}, make_scores(-90.0))
    make_run(tmp_path / "single" / "b", {"activation": "elu", "seed": 1}, make_scores(-91.0))
    assert not open_page(tmp_path / "single").locator("#means").is_visible()


def test_a_page_without_finished_runs_or_differences(tmp_path, open_page):
    make_run(tmp_path / "sweep" / "a", {"latent_dim": 2}, failure="no memory")
    page = open_page(tmp_path / "sweep")
    assert column(page, 2) == ["failed\nno memory"]
    assert "no key differs" in page.locator("#parameters-note").inner_text()
    assert not page.locator("#heat-plot").is_visible()


def test_plots_do_not_overlap_when_the_window_is_resized(tmp_path, open_page):
    page = open_page(make_mixed_runs(tmp_path / "sweep"))
    for width in (700, 1366, 500):
        page.set_viewport_size({"width": width, "height": 768})
        for plot, below in (("curves-plot", "runs"), ("parallel-plot", "pictures"), ("heat-plot", "pictures")):
            page.wait_for_function(
                """([plot, below]) => {
                    const svg = $(plot).querySelector(".main-svg").getBoundingClientRect();
                    const box = $(plot).getBoundingClientRect();
                    const fits = Math.abs(svg.width - box.width) <= 1 && Math.abs(svg.height - box.height) <= 1;
                    return fits && svg.bottom <= $(below).getBoundingClientRect().top + 1;
                }""",
                arg=[plot, below],
                timeout=10_000,
            )
    titles = page.locator("#curves-plot .annotation-text").all()
    assert len({title.bounding_box()["x"] for title in titles}) == 1  # one column of curves


def test_a_page_with_a_hundred_runs_opens_quickly_and_is_not_too_large(tmp_path, open_page):
    for i in range(100):
        overrides = {"latent_dim": 2 + i % 10, "seed": i // 10}
        make_run(
            tmp_path / "sweep" / str(i),
            overrides,
            make_scores(-90.0 - i),
            history=make_history(-100 - i, 60),
            pictures=["samples"],
        )
    start = time.monotonic()
    page = open_page(tmp_path / "sweep")
    assert len(visible_curves(page)["elbo"]) == 100
    assert page.locator("tbody tr").count() == 100
    assert time.monotonic() - start < 60  # rendered and opened, also beside other tests
    assert page.evaluate("performance.now()") < 30_000
    assert (tmp_path / "page.html").stat().st_size < 20e6
    colours = page.evaluate("new Set(document.getElementById('curves-plot').data.map(trace => trace.line.color)).size")
    assert colours == 100
