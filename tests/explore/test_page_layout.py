"""The layout of the page on narrow and low screens, and its keyboard navigation."""

import pytest
from explore_client import (
    explorer,
    opened_page,
    served,
    upload,
)


@pytest.fixture(scope="module")
def address():
    with served(explorer()) as address:
        yield address


@pytest.fixture
def page(browser, address):
    with opened_page(browser, address) as page:
        yield page


def test_narrow_screen_shows_the_drawing_with_its_score(page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("tab", name="Your picture").click()
    page.evaluate("paper.strokeStyle = '#fff', paper.strokeRect(20, 20, 99, 99), void uploadDrawing()")
    page.wait_for_function("document.getElementById('scale').childElementCount === 9")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    viewer = page.locator("#viewer").bounding_box()
    for part in ("#paper", "#original", "#score"):
        box = page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 740
        assert box["y"] + box["height"] / 2 > viewer["y"] + viewer["height"]


def test_message_is_visible_on_a_narrow_screen(page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("tab", name="Your picture").click()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    upload(page, "text.png", b"not a picture")
    page.wait_for_function("document.getElementById('message').textContent !== ''")
    box = page.locator("#message").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 740


def test_map_fits_a_low_window(page):
    for size in ({"width": 740, "height": 360}, {"width": 1366, "height": 420}):
        page.set_viewport_size(size)
        box = page.locator("#map").bounding_box()
        assert box["height"] < size["height"], "the map fills the window"
        assert box["height"] == pytest.approx(box["width"], abs=1)


@pytest.mark.parametrize("width", [320, 360, 390])
def test_picture_stays_visible_on_a_narrow_screen(page, width):
    page.set_viewport_size({"width": width, "height": 740})
    for tab in ("Dimensions", "Fuse", "Your picture"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        box = page.locator("#picture").bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] < 300


def test_everything_is_reachable_by_keyboard(page):
    page.locator("#map").focus()
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
    assert reached[:3] == ["random", "reset", "keep"]
    assert "tab-sliders" in reached
    assert "z2" in reached
    page.locator("#tab-sliders").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#fuse").is_visible()
    assert page.evaluate("document.activeElement.id") == "tab-fuse"
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelectorAll('#first-list li').length === 8")
