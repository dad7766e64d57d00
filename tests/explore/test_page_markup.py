"""Markup in what a run folder or a file name says is shown as text on the page, in a browser."""

import pytest
from explore_client import Named, explorer, opened_page, served

MARKUP = "<img src=x onerror=alert(1)><b>x</b>"


class Hostile(Named):
    """Images whose names, of files or of species, are markup."""

    def load(self):
        return {
            split: images._replace(names=[f"{MARKUP} {split} {i}" for i in range(len(images.names))])
            for split, images in super().load().items()
        }


@pytest.fixture
def page(browser):
    it = explorer(Hostile)
    it.run, it.title = f"run {MARKUP}", f"title {MARKUP}"
    dialogs = []
    with served(it) as address, opened_page(browser, address) as page:
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        yield page
        assert page.locator("b, img[src=x]").count() == 0
        assert dialogs == []


def test_names_of_the_run_and_of_images_are_text(page):
    assert page.title() == page.locator("h1").inner_text() == f"title {MARKUP}"
    assert page.locator("#run").inner_text() == f"run {MARKUP}"
    assert page.locator("#title").inner_text() == f"{MARKUP} test 0, label 0"
    page.locator("#map").hover()
    page.mouse.move(
        *page.evaluate("""() => {
        const box = document.getElementById("map").getBoundingClientRect();
        const [x, y] = toPixels(about.points[3]).map(value => value / pixelRatio());
        return [box.left + x, box.top + y];
    }""")
    )
    page.wait_for_function("document.getElementById('hover').textContent.startsWith('<img src=x')")
    page.get_by_role("tab", name="Fuse").click()
    page.get_by_label("the first image").fill("test 3")
    page.wait_for_function("document.querySelectorAll('#first-list li').length === 1")
    assert page.locator("#first-list li").inner_text() == f"{MARKUP} test 3, label 0"


def test_an_error_is_text(page):
    page.evaluate("text => { about.run = text; return withErrors(() => decode([about.mean_code])); }", MARKUP)
    assert f"this page shows {MARKUP}, but run {MARKUP} is explored now" in page.locator("#message").inner_text()
