"""The map of the page, in a browser."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from explore_client import (
    SPLITS,
    Drafting,
    all_means,
    assert_picture_of_code,
    explorer,
    means,
    means_by_name,
    opened_page,
    served,
    settled_code,
    wait_for_text,
)


@pytest.fixture(scope="module")
def address():
    with served(explorer()) as address:
        yield address


@pytest.fixture
def page(browser, address):
    with opened_page(browser, address) as page:
        yield page


def axes():
    """Return the principal directions of all codes; the first two span the map."""
    codes = all_means()
    return np.linalg.svd(codes - codes.mean(0), full_matrices=False)[2]


def test_drafts_follow_the_pointer_and_the_picture_comes_when_it_rests(browser):
    with served(explorer(likelihood=Drafting)) as address, opened_page(browser, address) as page:
        drafts = []
        page.on("request", lambda it: drafts.append("previous" in it.post_data) if it.url.endswith("decode") else None)
        box = page.locator("#map").bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 80)
        page.mouse.down()
        for i in range(20):
            page.mouse.move(box["x"] + 60 + 8 * i, box["y"] + 80)
        assert_picture_of_code(page)
        assert drafts[0]
        assert not drafts[-1]
        page.mouse.up()
        drafts.clear()
        page.locator("#reset").click()
        assert_picture_of_code(page)
        assert drafts == [False]


def test_starts_with_the_first_test_image(page):
    np.testing.assert_allclose(assert_picture_of_code(page), means()[0], atol=1e-4)
    assert page.title() == page.locator("h1").inner_text() == "named, latent_dim=3"
    assert page.locator("#title").inner_text() == "pikachu, label 0"
    assert page.locator("#legend span span").count() == 3


def test_dragging_the_ring_decodes_while_it_moves(page):
    before = settled_code(page)
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 80)
    page.mouse.down()
    page.evaluate("latencies.length = 0")
    for i in range(60):
        page.mouse.move(box["x"] + 60 + 4 * i, box["y"] + 80 + 2 * i)
    assert_picture_of_code(page)
    latencies = page.evaluate("latencies")
    assert len(latencies) > 10
    assert np.median(latencies) < 150, "milliseconds from a pointer event to its picture"
    assert min(latencies) < 40, "the delay of Nagle's algorithm"
    assert re.fullmatch(r"response time: \d+ ms", page.locator("#latency").inner_text())
    after = assert_picture_of_code(page)
    page.mouse.up()
    moved = after - before
    assert abs(moved @ axes()[2]) < 1e-4 * np.linalg.norm(moved)
    there, middle, span = page.evaluate("[toMap(z), view.middle, view.span]")
    pointer = np.array([60 + 4 * 59, 80 + 2 * 59]) - 1  # without the border
    expected = (pointer / (box["width"] - 2) - 0.5) * span * [1, -1] + middle
    np.testing.assert_allclose(there, expected, atol=0.004 * span)
    assert not page.locator("#selected").is_visible()


def test_dots_have_the_colours_of_the_legend(page):
    swatches = page.locator("#legend > span").all()
    legend = {
        int(it.inner_text()): it.locator(".swatch").evaluate("it => getComputedStyle(it).backgroundColor")
        for it in swatches
    }
    assert [*legend.values()] == [
        "rgb(31, 119, 180)",
        "rgb(255, 127, 14)",
        "rgb(44, 160, 44)",
    ]  # as in latents.png: tab10
    points, middle, span, side = page.evaluate("[about.points, view.middle, view.span, view.side]")
    positions = ((np.array(points) - middle) / span * [1, -1] + 0.5) * side
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1) + 1e9 * np.eye(len(positions))
    isolated = np.flatnonzero(distances.min(1) > 14)
    images = explorer().model.data.images
    order = [label for split in SPLITS for label in images[split].labels.tolist()]
    assert {order[i] for i in isolated} == {0, 1, 2}
    for i in isolated:
        found = page.evaluate(
            "([x, y]) => [...view.dots.getContext('2d').getImageData(x, y, 1, 1).data]", positions[i].tolist()
        )
        expected = [int(part) for part in re.findall(r"\d+", legend[order[i]])]
        np.testing.assert_allclose(found[:3], expected, atol=4)
        assert found[3] > 100


def test_click_on_a_dot_selects_its_image(page):
    box = page.locator("#map").bounding_box()
    ratio, side = box["width"] - 2, page.evaluate("view.side")
    title, x, y = page.evaluate("""() => {  // the dot farthest from the middle
        const far = point => Math.hypot(...[0, 1].map(i => point[i] - view.middle[i]));
        const best = [...about.points.keys()].sort((a, b) => far(about.points[b]) - far(about.points[a]))[0];
        return [about.images[best][1], ...toPixels(about.points[best])];
    }""")
    page.mouse.click(box["x"] + 1 + x * ratio / side, box["y"] + 1 + y * ratio / side)
    wait_for_text(page, "title", title)
    page.wait_for_function("document.getElementById('scale').childElementCount > 0")
    np.testing.assert_allclose(assert_picture_of_code(page), means_by_name()[title], atol=1e-4)


def test_the_caption_of_a_dot_is_beside_it_while_the_pointer_is_over_it(page):
    hover, box = page.locator("#hover"), page.locator("#map").bounding_box()
    x, y = page.evaluate("toPixels(about.points[5]).map(pixels => pixels / pixelRatio())")
    page.mouse.move(box["x"] + 1 + x, box["y"] + 1 + y)
    title = page.evaluate("([x, y]) => about.images[nearestDot([x, y].map(it => it * pixelRatio()))][1]", [x, y])
    assert hover.inner_text().startswith(title)
    assert abs(hover.bounding_box()["y"] - box["y"] - y) < 30
    page.mouse.move(box["x"] + box["width"] + 30, box["y"] + 50)
    assert hover.inner_text() == ""
    page.mouse.move(box["x"] + 1 + x, box["y"] + 1 + y)
    assert hover.inner_text().startswith(title)
    page.keyboard.press("0")
    assert hover.inner_text() == ""


def test_the_help_says_which_directions_the_ring_changes(page):
    help_text = page.locator("#map-help").inner_text()
    assert "2 of 3 directions: moving the ring does not change the other 1" in help_text
    assert "arrow keys" in help_text


def test_dark_mode(page):
    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    # of the name of the horizontal axis
    label_brightness = """(() => {
        const y = view.side - 12 * devicePixelRatio
        const pixels = view.dots.getContext('2d').getImageData(view.side / 2 - 60, y, 120, 8).data
        const reds = [...pixels].filter((_, i) => i % 4 === 0 && pixels[i + 3] > 200)
        return reds.reduce((sum, red) => sum + red, 0) / reds.length
    })()"""
    assert background() == "rgb(255, 255, 255)"
    light = page.evaluate(label_brightness)
    page.emulate_media(color_scheme="dark")
    assert background() == "rgb(20, 25, 29)"
    page.wait_for_function(f"{label_brightness} > {light + 30}")  # the map is drawn again after a moment


def test_arrow_keys_move_the_ring(page):
    before = settled_code(page)
    first, second, other = axes()
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    right = assert_picture_of_code(page) - before
    page.keyboard.press("Shift+ArrowUp")
    up = assert_picture_of_code(page) - before - right
    span = page.evaluate("view.span")
    assert abs(right @ first) == pytest.approx(0.02 * span, rel=1e-3)
    assert abs(up @ second) == pytest.approx(0.1 * span, rel=1e-3)
    assert max(abs(right @ second), abs(right @ other), abs(up @ first), abs(up @ other)) < 1e-4


def test_enter_selects_the_nearest_image(page):
    settled_code(page)
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    near = page.evaluate("toMap(z)")
    on = np.array(page.evaluate("about.points"))
    nearest = np.linalg.norm(on - near, axis=1).argmin()
    page.keyboard.press("Enter")
    title = page.evaluate("i => about.images[i][1]", int(nearest))
    wait_for_text(page, "title", title)
    page.wait_for_function("document.getElementById('scale').childElementCount > 0")


def test_only_the_left_button_on_the_map_drags_the_ring(page):
    before = settled_code(page)
    box = page.locator("#map").bounding_box()
    for button, (x, y) in (("left", (box["x"] + 50, box["y"] - 15)), ("right", (box["x"] + 50, box["y"] + 50))):
        page.mouse.move(x, y)
        page.mouse.down(button=button)
        page.mouse.move(box["x"] + 150, box["y"] + 150, steps=3)
        page.mouse.up(button=button)
        np.testing.assert_array_equal(settled_code(page), before)


@pytest.fixture
def phone(browser, address):
    """The page on a phone with a touch screen."""
    options = {"viewport": {"width": 390, "height": 740}, "has_touch": True, "is_mobile": True}
    with opened_page(browser, address, **options) as page:
        settled_code(page)
        yield page


def touch(page):
    """touch(kind, *points) sends a touch event with fingers at these points of the window."""
    session = page.context.new_cdp_session(page)

    def send(kind, *points):
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    return send


def ring(page):
    """Return the position of the ring in the window."""
    box = page.locator("#map").bounding_box()
    x, y = page.evaluate("toPixels(view.point).map(pixels => pixels / pixelRatio())")
    return box["x"] + 1 + x, box["y"] + 1 + y


def test_a_finger_drags_the_ring_and_a_second_one_does_not(phone):
    send, (x, y) = touch(phone), ring(phone)
    scrolled = phone.evaluate("scrollY")
    send("touchStart", (x, y))
    for i in range(1, 6):
        send("touchMove", (x + 8 * i, y - 10 * i))
    send("touchStart", (x + 40, y - 50), (200, 300))
    send("touchMove", (x + 40, y - 50), (220, 320))
    send("touchEnd")
    np.testing.assert_allclose(ring(phone), (x + 40, y - 50), atol=2)
    assert phone.evaluate("scrollY") == scrolled
    assert_picture_of_code(phone)


def test_a_finger_beside_the_ring_scrolls_the_page(phone):
    before, send, box = settled_code(phone), touch(phone), phone.locator("#map").bounding_box()
    x, y = box["x"] + 20, box["y"] + box["height"] - 30
    assert np.hypot(*(np.array(ring(phone)) - (x, y))) > 60
    send("touchStart", (x, y))
    for i in range(1, 11):
        send("touchMove", (x, y - 15 * i))
        phone.wait_for_timeout(20)
    send("touchEnd")
    phone.wait_for_function("scrollY > 60")
    np.testing.assert_array_equal(settled_code(phone), before)


def test_a_tap_on_a_dot_selects_its_image(phone):
    box = phone.locator("#map").bounding_box()
    title, x, y = phone.evaluate("""() => {  // the dot farthest from the middle
        const far = point => Math.hypot(...[0, 1].map(i => point[i] - view.middle[i]));
        const best = [...about.points.keys()].sort((a, b) => far(about.points[b]) - far(about.points[a]))[0];
        return [about.images[best][1], ...toPixels(about.points[best]).map(pixels => pixels / pixelRatio())];
    }""")
    phone.touchscreen.tap(box["x"] + 1 + x, box["y"] + 1 + y)
    wait_for_text(phone, "title", title)
    np.testing.assert_allclose(assert_picture_of_code(phone), means_by_name()[title], atol=1e-4)


def test_a_phone_is_not_told_of_keys_and_mouse(phone):
    assert "arrow" not in phone.locator("#map-help").inner_text()
    assert "Tap a dot" in phone.locator("#map-help").inner_text()
    phone.get_by_role("tab", name="Your picture").click()
    assert "Drop" not in phone.locator("#drop").inner_text()


class CubedUMAP:
    """A replacement of UMAP: two dimensions of the codes to the third power."""

    def __init__(self, *_, **__):
        pass

    def fit_transform(self, codes):
        return codes[:, 1:] ** 3


def shepard_mean(at, places, values):
    """Return the mean of the twelve nearest with weights that reach 0 at the thirteenth (Shepard 1968)."""
    distance = np.linalg.norm(places - at, axis=1)
    order = distance.argsort()
    edge = distance[order[12]]
    weights = np.maximum(0, edge - distance) ** 2 / (edge * distance + 1e-9) ** 2
    return weights @ values / weights.sum()


def test_umap_ring_has_the_weighted_mean_code_of_its_neighbours(browser, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=CubedUMAP))
    with served(explorer(by_umap=True)) as address, opened_page(browser, address) as page:
        codes = all_means()
        places = codes[:, 1:] ** 3
        np.testing.assert_allclose(page.evaluate("about.points"), places, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(page.evaluate("view.point"), places[0], rtol=0.01, atol=0.01)
        box = page.locator("#map").bounding_box()
        page.mouse.move(box["x"] + 200, box["y"] + 300)
        page.mouse.down()
        page.mouse.move(box["x"] + 230, box["y"] + 250, steps=4)
        code = assert_picture_of_code(page)
        spot, middle, span = page.evaluate("[view.point, view.middle, view.span]")
        expected = (np.array([229, 249]) / (box["width"] - 2) - 0.5) * span * [1, -1] + middle
        np.testing.assert_allclose(spot, expected, atol=0.004 * span)
        np.testing.assert_allclose(code, shepard_mean(np.array(spot), places, codes), rtol=0.01, atol=0.01)
        page.mouse.up()
        page.get_by_label("z1", exact=True).press("ArrowRight")
        code = assert_picture_of_code(page)
        np.testing.assert_allclose(page.evaluate("view.point"), shepard_mean(code, codes, places), rtol=0.01, atol=0.01)
