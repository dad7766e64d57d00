"""The page of vae.explore in a real browser, of a model made by hand whose pictures are known."""

import json
import re
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from explore_client import TO_CODE, explorer, file, picture, served
from PIL import Image

from vae.generate.interpolation import spherical


@pytest.fixture(scope="module")
def address():
    with served(explorer()) as address:
        yield address


@pytest.fixture
def page(browser, address):
    """The page, ready; the test fails on any error in it, but for answers that refuse."""
    errors = []
    context = browser.new_context(viewport={"width": 1366, "height": 768}, accept_downloads=True)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda it: errors.append(it.text) if it.type == "error" and "422" not in it.text else None)
    page.on("request", lambda it: errors.append(it.url) if not it.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address)
    begun(page)
    yield page
    context.close()
    assert errors == []


def begun(page):
    """Wait until the first picture is on the screen."""
    page.wait_for_selector("body[data-ready]")
    page.wait_for_function("latencies.length > 0")


def z(page):
    return np.array(page.evaluate("z"))


def settled(page):
    """The code that is looked at, once its picture is on the screen."""
    page.wait_for_function("!busy && !wanted")
    return z(page)


def canvas(page, selector):
    """The grey levels of a canvas."""
    pixels = page.eval_on_selector(
        selector, "it => [it.height, it.width, ...it.getContext('2d').getImageData(0, 0, it.width, it.height).data]"
    )
    return np.array(pixels[2:]).reshape(*pixels[:2], 4)[..., 0]


def assert_shown(page):
    code = settled(page)
    np.testing.assert_allclose(canvas(page, "#picture"), picture(code.astype(np.float32)), atol=1)
    return code


def means(split="test"):
    return (explorer().studio.data.x(split).flatten(1) @ TO_CODE).numpy()


def axes():
    """The plane of the map: that of most variance over all images."""
    every = np.concatenate([means(split) for split in ("test", "val", "train")]).astype(float)
    return np.linalg.svd(every - every.mean(0), full_matrices=False)[2]


def test_it_begins_with_the_first_test_image(page):
    np.testing.assert_allclose(assert_shown(page), means()[0], atol=1e-4)
    assert page.title() == page.locator("h1").inner_text() == "named, latent_dim=3"
    assert page.locator("#title").inner_text() == "pikachu, label 0"
    assert page.locator("#legend span span").count() == 3


def test_a_point_dragged_over_the_map_is_decoded_as_it_moves(page):
    before = settled(page)
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 80)
    page.mouse.down()
    page.evaluate("latencies.length = 0")
    for i in range(60):
        page.mouse.move(box["x"] + 60 + 4 * i, box["y"] + 80 + 2 * i)
    assert_shown(page)
    seen = page.evaluate("latencies")
    assert len(seen) > 10
    assert np.median(seen) < 150, "milliseconds from a pointer to its picture"
    assert min(seen) < 40, "as long as an answer waits that the kernel keeps back"
    assert "ms from hand to picture" in page.locator("#latency").inner_text()
    after = assert_shown(page)
    page.mouse.up()
    moved = after - before
    assert abs(moved @ axes()[2]) < 1e-4 * np.linalg.norm(moved)
    there, middle, span = page.evaluate("[onMap(z), view.middle, view.span]")
    pointer = np.array([60 + 4 * 59, 80 + 2 * 59]) - 1  # less the border
    expected = (pointer / (box["width"] - 2) - 0.5) * span * [1, -1] + middle
    np.testing.assert_allclose(there, expected, atol=0.004 * span)
    assert not page.locator("#seen").is_visible()


def test_dots_have_the_colours_of_the_legend(page):
    swatches = page.locator("#legend > span").all()
    legend = {
        int(it.inner_text()): it.locator(".swatch").evaluate("it => getComputedStyle(it).backgroundColor")
        for it in swatches
    }
    assert len(set(legend.values())) == 3
    points, middle, span, side = page.evaluate("[about.points, view.middle, view.span, view.side]")
    at = ((np.array(points) - middle) / span * [1, -1] + 0.5) * side
    apart = np.linalg.norm(at[:, None] - at[None], axis=-1) + 1e9 * np.eye(len(at))
    lone = np.flatnonzero(apart.min(1) > 14)
    images = explorer().studio.data.images
    order = [label for split in ("test", "val", "train") for label in images[split].labels.tolist()]
    assert {order[i] for i in lone} == {0, 1, 2}
    for i in lone:
        found = page.evaluate(
            "([x, y]) => [...view.dots.getContext('2d').getImageData(x, y, 1, 1).data]", at[i].tolist()
        )
        expected = [int(part) for part in re.findall(r"\d+", legend[order[i]])]
        np.testing.assert_allclose(found[:3], expected, atol=4)
        assert found[3] > 100


def test_a_click_on_a_dot_takes_its_image(page):
    box = page.locator("#map").bounding_box()
    ratio, side = box["width"] - 2, page.evaluate("view.side")
    lone = page.evaluate("""() => {  // of those at the edge, which has no other near it
        const far = point => Math.hypot(...[0, 1].map(i => point[i] - view.middle[i]));
        const best = [...about.points.keys()].sort((a, b) => far(about.points[b]) - far(about.points[a]))[0];
        return [about.images[best][1], ...toPixels(about.points[best])];
    }""")
    page.mouse.click(box["x"] + 1 + lone[1] * ratio / side, box["y"] + 1 + lone[2] * ratio / side)
    page.wait_for_function("title => document.getElementById('title').textContent.startsWith(title)", arg=lone[0])
    page.wait_for_function("document.getElementById('scale').childElementCount > 0")
    every = {}
    for split, images in explorer().studio.data.images.items():
        every |= zip(images.names, means(split), strict=True)
    np.testing.assert_allclose(assert_shown(page), every[lone[0]], atol=1e-4)


def test_the_map_by_keyboard(page):
    before = settled(page)
    first, second, other = axes()
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    right = assert_shown(page) - before
    page.keyboard.press("Shift+ArrowUp")
    up = assert_shown(page) - before - right
    span = page.evaluate("view.span")
    assert abs(right @ first) == pytest.approx(0.02 * span, rel=1e-3)
    assert abs(up @ second) == pytest.approx(0.1 * span, rel=1e-3)
    assert max(abs(right @ second), abs(right @ other), abs(up @ first), abs(up @ other)) < 1e-4


def test_a_slider_moves_one_dimension(page):
    before = settled(page)
    labels = [it.get_attribute("aria-label") for it in page.locator("#dimensions input").all()]
    assert labels == [f"z{row['d'] + 1}" for row in explorer().about["dimensions"]]
    assert labels[0] == "z2"
    slider = page.get_by_label("z2", exact=True)
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    after = assert_shown(page)
    assert after[1] > before[1]
    np.testing.assert_allclose(after[[0, 2]], before[[0, 2]])
    slider.press("End")
    assert assert_shown(page)[1] == pytest.approx(explorer().about["dimensions"][0]["high"], rel=0.2)
    page.wait_for_function("document.querySelector('.dimension output').textContent === z[1].toFixed(2)")
    slider.press("Home")
    assert assert_shown(page)[1] == pytest.approx(explorer().about["dimensions"][0]["low"], rel=0.2)


def test_random_reset_and_what_is_kept(page):
    page.keyboard.press("0")
    np.testing.assert_allclose(assert_shown(page), means("train").mean(0), atol=1e-4)
    page.get_by_role("button", name="Keep").click()
    page.keyboard.press("r")
    page.wait_for_function("z.some((value, d) => Math.abs(value - about.home[d]) > 1e-6)")
    drawn = assert_shown(page)
    page.keyboard.press("k")
    page.wait_for_function("document.querySelectorAll('#favourites figure').length === 2")
    np.testing.assert_allclose(canvas(page, "#favourites figure:nth-child(2) canvas"), canvas(page, "#picture"))
    page.reload()
    begun(page)
    assert page.locator("#favourites figure").count() == 2
    page.get_by_label("show kept picture 2").click()
    np.testing.assert_allclose(assert_shown(page), drawn)

    with page.expect_download() as found:
        page.get_by_role("button", name="Download codes").click()
    assert found.value.suggested_filename == "made-by-hand-codes.json"
    codes = json.loads(found.value.path().read_text())
    np.testing.assert_allclose(codes[1], drawn)
    with page.expect_download() as found:
        page.get_by_role("button", name="Download pictures").click()
    sheet = np.asarray(Image.open(found.value.path()).convert("L")).astype(float)
    zoom = round(256 / 14)
    second = sheet[8 : 8 + 14 * zoom, 10 * zoom + 16 :][:, : 10 * zoom]
    np.testing.assert_allclose(second[zoom // 2 :: zoom, zoom // 2 :: zoom], picture(drawn.astype(np.float32)), atol=1)

    page.get_by_label("remove kept picture 1").click()
    page.wait_for_function("document.querySelectorAll('#favourites figure').length === 1")
    assert page.evaluate("JSON.parse(localStorage.getItem('vae made-by-hand'))") == [codes[1]]
    page.get_by_label("remove kept picture 1").click()
    page.wait_for_function("document.getElementById('kept').hidden")


def test_two_images_are_fused_by_name(page):
    page.get_by_role("tab", name="Fuse").click()
    page.get_by_label("the first image").fill("char")
    options = page.locator("#first-list li")
    page.wait_for_function("document.querySelectorAll('#first-list li').length === 2")
    assert options.all_inner_texts() == ["charizard, label 1", "charmander, label 2"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.get_by_label("the first image").input_value() == "charmander"
    page.get_by_label("the second image").fill("<b>")
    page.wait_for_function("document.querySelectorAll('#second-list li').length === 1")
    assert page.locator("#second-list li").inner_text() == "<b>onix</b>, label 1"
    page.locator("#second-list li").click()
    page.wait_for_function("document.querySelectorAll('#strip canvas').length === 5")
    a, b = torch.from_numpy(means())[[2, 7]]
    middle = spherical(a, b, torch.tensor([0.5]))[0]
    np.testing.assert_allclose(assert_shown(page), middle, atol=1e-4)
    slider = page.get_by_label("between them")
    for end, code in (("Home", a), ("End", b)):
        slider.press(end)
        np.testing.assert_allclose(assert_shown(page), code, atol=1e-4)
    np.testing.assert_allclose(canvas(page, "#strip button:nth-child(3) canvas"), picture(middle), atol=1)
    page.locator("#strip button").nth(2).click()
    np.testing.assert_allclose(assert_shown(page), middle, atol=1e-4)
    page.get_by_label("the first image").fill("missingno")
    page.wait_for_function("document.getElementById('first-list').textContent === 'no image is called so'")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert page.locator("#first-list").is_hidden()


@pytest.mark.parametrize(("drawn", "rows"), [(0, (0, 1)), (0.75, (45, 30)), (0.999, (59, 58))])
def test_any_two_images_are_fused(page, drawn, rows):
    page.get_by_role("tab", name="Fuse").click()
    page.evaluate("drawn => { Math.random = () => drawn; }", drawn)
    page.get_by_role("button", name="Any two").click()
    page.wait_for_function("document.querySelectorAll('#strip canvas').length === 5")
    expected = page.evaluate("rows => rows.map(row => about.images[row][1])", rows)
    assert [
        page.get_by_label(f"the {which} image", exact=True).input_value() for which in ("first", "second")
    ] == expected
    every = {}
    for split, images in explorer().studio.data.images.items():
        every |= zip(images.names, torch.from_numpy(means(split)), strict=True)
    a, b = (every[name] for name in expected)
    np.testing.assert_allclose(assert_shown(page), spherical(a, b, torch.tensor([0.5]))[0], atol=1e-4)


def upload(page, name, content):
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


def test_a_picture_of_one_s_own(page):
    page.get_by_role("tab", name="Your picture").click()
    pixels = np.random.default_rng(0).integers(0, 256, (14, 10), np.uint8)
    upload(page, "mine.png", file(Image.fromarray(pixels)))
    page.wait_for_function("document.getElementById('title').textContent === 'your picture'")
    np.testing.assert_allclose(assert_shown(page), (pixels / 255).flatten() @ TO_CODE.numpy(), atol=1e-4)
    np.testing.assert_array_equal(canvas(page, "#original"), pixels)
    page.wait_for_function("document.getElementById('scale').childElementCount === 9")
    told = page.locator("#likely").inner_text()
    score = float(re.match("log p\\(x\\) \u2248 (\u2212.*) nats \\(K = 20\\); ", told)[1].replace("\u2212", "-"))
    less = sum(other < score for other in explorer().others)
    assert told.endswith(f"likelier than {less} of 8 test images")


def test_pictures_that_are_none_are_refused_and_nothing_is_lost(page):
    page.get_by_role("tab", name="Your picture").click()
    before = settled(page)
    for name, content, said in [
        ("text.png", b"not a picture", "this is no picture that can be read"),
        ("dot.png", file(Image.new("L", (1, 1))), "1 x 1 pixels: expected 4 or more a side"),
    ]:
        upload(page, name, content)
        page.wait_for_function("said => document.getElementById('message').textContent.startsWith(said)", arg=said)
        np.testing.assert_array_equal(assert_shown(page), before)
    page.evaluate("send(new Blob([new Uint8Array(100e6)]))")
    page.wait_for_function("document.getElementById('message').textContent.startsWith('100.0 MB: expected 16 MB')")
    frames = [Image.new("L", (14, 20), level) for level in (250, 0)]
    upload(page, "moves.gif", file(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    page.wait_for_function("document.getElementById('message').textContent.startsWith('it moves: of its 2 frames')")
    page.wait_for_function("document.getElementById('title').textContent === 'your picture'")
    assert canvas(page, "#original").min() == 250
    page.keyboard.press("0")
    page.wait_for_function("document.getElementById('message').textContent === ''")


def test_a_picture_dropped_anywhere(page):
    png = list(file(Image.new("L", (10, 14), 128)))
    page.evaluate(
        """bytes => {
        const dropped = new DataTransfer();
        dropped.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true }));
    }""",
        png,
    )
    page.wait_for_function("document.getElementById('title').textContent === 'your picture'")
    np.testing.assert_allclose(assert_shown(page), 128 / 255 * TO_CODE.sum(0), atol=1e-3)


def test_a_drawing(page):
    page.get_by_role("tab", name="Your picture").click()
    box = page.locator("#paper").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] + 120, steps=5)
    page.mouse.up()
    page.wait_for_function("document.getElementById('title').textContent === 'your drawing'")
    seen = canvas(page, "#original").astype(float)
    rows = np.flatnonzero(seen.sum(1) > 100)
    assert abs(np.average(np.arange(10) + 0.5, weights=seen.sum(0)) - 5) <= 0.5
    assert abs(rows.mean() + 0.5 - 7) <= 1
    assert_shown(page)
    page.get_by_role("button", name="Clear").click()
    assert canvas(page, "#paper").max() == 0


class Held:
    """Answers of a path that come when they are let go, the last asked for first."""

    def __init__(self, page, path):
        self.page, self.routes = page, []
        page.route(path, lambda route: self.routes.append(route))

    def wait(self, n):
        late = time.monotonic() + 20
        while len(self.routes) < n:
            assert time.monotonic() < late, "it was not asked for"
            self.page.wait_for_timeout(10)

    def let_go(self):
        for route in reversed(self.routes):
            with self.page.expect_response(route.request.url):
                route.continue_()
        self.page.wait_for_timeout(50)


def test_of_two_images_that_are_taken_the_last_is_seen(page):
    settled(page)
    held = Held(page, "**/seen/*/*")
    page.evaluate("void take('test/3')")
    held.wait(1)
    page.evaluate("void take('test/4')")
    held.wait(2)
    held.let_go()
    assert page.locator("#title").inner_text() == "mew, label 1"
    np.testing.assert_allclose(assert_shown(page), means()[4], atol=1e-4)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("**/seen/*/*", "void take('test/3')"),
        ("**/draw", "void random()"),
        ("**/seen?drawn", "paper.strokeStyle = '#fff', paper.strokeRect(20, 20, 99, 99), void sendDrawing()"),
        ("**/between**", "void anyTwo()"),
    ],
)
def test_what_comes_late_does_not_undo_what_was_done_meanwhile(page, path, asked):
    settled(page)
    held = Held(page, path)
    page.evaluate(asked)
    held.wait(1)
    page.keyboard.press("0")
    held.let_go()
    np.testing.assert_allclose(assert_shown(page), means("train").mean(0), atol=1e-4)
    assert not page.locator("#seen").is_visible()


def test_of_two_pairs_the_last_is_between_the_slider_s_ends(page):
    page.get_by_role("tab", name="Fuse").click()
    held = Held(page, "**/between**")
    for n, first in enumerate(("test/2", "test/3"), 1):
        page.evaluate("first => { Object.assign(parents, { first, second: 'test/7' }); void fuse(); }", first)
        held.wait(n)
    held.let_go()
    page.wait_for_function("document.querySelectorAll('#strip canvas').length === 5")
    np.testing.assert_allclose(page.evaluate("[way[0], way.at(-1)]"), means()[[3, 7]], atol=1e-4)
    slider = page.get_by_label("between them")
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == "100 % of the second image"


def test_enter_waits_for_what_was_typed_last(page):
    page.get_by_role("tab", name="Fuse").click()
    box = page.get_by_label("the first image")
    box.fill("ditto")
    page.wait_for_function("document.querySelectorAll('#first-list li').length === 1")
    held = Held(page, "**/search?*")
    box.fill("raichu")
    box.press("Enter")
    held.wait(1)
    held.let_go()
    page.wait_for_function("parents.first === 'test/6'")
    assert page.locator("#first-list").is_hidden()
    box.press("ArrowDown")
    held.wait(2)
    held.routes[1].continue_()
    page.wait_for_function("!document.getElementById('first-list').hidden")
    box.press("Escape")
    box.fill("pika")
    held.wait(3)
    page.locator("#tab-fuse").focus()
    held.routes[2].continue_()
    page.wait_for_timeout(50)
    assert page.locator("#first-list").is_hidden(), "nobody is there to choose"
    assert box.input_value() == "raichu", "the image that is chosen"


@pytest.mark.parametrize("left", ["{", "7", "null", '"abc"', '[null, 1, "abc", [1, 2], [1, 2, "x"]]'])
def test_what_the_browser_has_kept_may_be_damaged(page, left):
    page.evaluate("left => localStorage.setItem('vae made-by-hand', left)", left)
    page.reload()
    begun(page)
    assert page.locator("#kept").is_hidden()
    page.keyboard.press("k")
    page.wait_for_function("document.querySelectorAll('#favourites figure').length === 1")
    np.testing.assert_allclose(page.evaluate("JSON.parse(localStorage.getItem('vae made-by-hand'))"), [z(page)])


@pytest.mark.parametrize(
    "forbid",
    [
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }",
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })",
    ],
)
def test_what_the_browser_cannot_keep_is_kept_by_the_page(page, forbid):
    page.add_init_script(forbid)
    page.reload()
    begun(page)
    page.keyboard.press("k")
    page.wait_for_function(
        "document.getElementById('message').textContent.startsWith('kept until this page is closed')"
    )
    assert page.locator("#favourites figure").count() == 1


def test_of_two_lists_of_what_is_kept_the_last_is_shown(page):
    settled(page)
    held = Held(page, "**/decode")
    for n in (1, 2):
        page.evaluate("n => void keepOnly(Array(n).fill(about.home))", n)
        held.wait(n)
    held.let_go()
    assert page.locator("#favourites figure").count() == 2


def test_two_tabs_keep_the_same(page, address):
    other = page.context.new_page()
    other.goto(address)
    begun(other)
    for tab, n in ((page, 1), (other, 2)):
        tab.keyboard.press("0")
        tab.get_by_role("button", name="Keep").click()
        for each in (page, other):
            each.wait_for_function("n => document.querySelectorAll('#favourites figure').length === n", arg=n)


def test_on_a_narrow_screen_what_is_drawn_is_seen_with_its_code(page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("tab", name="Your picture").click()
    page.evaluate("paper.strokeStyle = '#fff', paper.strokeRect(20, 20, 99, 99), void sendDrawing()")
    page.wait_for_function("document.getElementById('scale').childElementCount === 9")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    covered = page.locator("#viewer").bounding_box()
    for part in ("#paper", "#original", "#likely"):
        box = page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 740
        assert box["y"] + box["height"] / 2 > covered["y"] + covered["height"]


def test_enter_on_the_map_takes_the_nearest_image(page):
    settled(page)
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    near = page.evaluate("onMap(z)")
    on = np.array(page.evaluate("about.points"))
    nearest = np.linalg.norm(on - near, axis=1).argmin()
    page.keyboard.press("Enter")
    title = page.evaluate("i => about.images[i][1]", int(nearest))
    page.wait_for_function("title => document.getElementById('title').textContent.startsWith(title)", arg=title)
    page.wait_for_function("document.getElementById('scale').childElementCount > 0")


def test_only_a_press_on_the_map_itself_drags_the_point(page):
    before = settled(page)
    box = page.locator("#map").bounding_box()
    for button, (x, y) in (("left", (box["x"] + 50, box["y"] - 15)), ("right", (box["x"] + 50, box["y"] + 50))):
        page.mouse.move(x, y)
        page.mouse.down(button=button)
        page.mouse.move(box["x"] + 150, box["y"] + 150, steps=3)
        page.mouse.up(button=button)
        np.testing.assert_array_equal(settled(page), before)


def test_a_finger_drags_the_point_and_a_second_one_does_not(page):
    settled(page)
    box = page.locator("#map").bounding_box()
    touch = page.context.new_cdp_session(page)

    def put(kind, *places):
        points = [{"x": box["x"] + x, "y": box["y"] + y, "id": i} for i, (x, y) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    put("touchStart", (50, 50))
    for at in range(60, 120, 10):
        put("touchMove", (at, at))
    put("touchStart", (110, 110), (200, 60))
    put("touchMove", (110, 110), (220, 80))
    there, expected, span = page.evaluate("[onMap(z), toPoint([109, 109]), view.span]")
    put("touchEnd")
    np.testing.assert_allclose(there, expected, atol=0.01 * span)


def test_a_message_is_in_sight_on_a_narrow_screen(page):
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


def test_a_held_key_keeps_once(page):
    settled(page)
    for _ in range(4):
        page.keyboard.down("k")
    page.keyboard.up("k")
    page.wait_for_function("document.querySelectorAll('#favourites figure').length > 0")
    assert page.evaluate("kept.length") == 1


def test_the_map_fits_a_low_window(page):
    for size in ({"width": 740, "height": 360}, {"width": 1366, "height": 420}):
        page.set_viewport_size(size)
        box = page.locator("#map").bounding_box()
        assert box["height"] < size["height"], "a finger could not scroll past it"
        assert box["height"] == pytest.approx(box["width"], abs=1)


@pytest.mark.parametrize("width", [320, 360, 390])
def test_on_a_narrow_screen_the_picture_stays_in_sight(page, width):
    page.set_viewport_size({"width": width, "height": 740})
    for tab in ("Dimensions", "Fuse", "Your picture"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        box = page.locator("#picture").bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] < 300


def test_everything_can_be_reached_by_keyboard(page):
    page.locator("#map").focus()
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
    assert reached[:5] == ["random", "reset", "keep", "tab-sliders", "z2"]
    page.locator("#tab-sliders").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#fuse").is_visible()
    assert page.evaluate("document.activeElement.id") == "tab-fuse"
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelectorAll('#first-list li').length === 8")


def test_a_page_of_another_run_is_not_shown_this_one_s_pictures(page):
    before = canvas(page, "#picture")
    page.evaluate("about.run = 'another'")
    page.keyboard.press("0")
    said = "this page is of another, and made-by-hand is explored now; load it anew"
    page.wait_for_function("said => document.getElementById('message').textContent === said", arg=said)
    np.testing.assert_array_equal(canvas(page, "#picture"), before)


def test_when_the_command_has_ended_it_says_so(browser):
    context = browser.new_context()
    page = context.new_page()
    with served(explorer()) as address:
        page.goto(address)
        begun(page)
        page.route("**/decode", lambda route: route.abort())
        page.get_by_role("button", name="Reset").click()
        page.wait_for_function("document.getElementById('message').textContent.includes('has it ended?')")
        page.route("**/others", lambda route: route.abort())
        page.unroute("**/decode")
        page.evaluate("others = null, void take('test/1')")
        page.wait_for_function("others === null && document.getElementById('message').textContent !== ''")
        page.unroute("**/others")
        page.evaluate("void take('test/2')")
        page.wait_for_function("document.getElementById('scale').childElementCount === 9")
        context.close()


class Cubed:
    """In place of UMAP: two of the codes' dimensions, to the third power."""

    def __init__(self, *_, **__):
        pass

    def fit_transform(self, codes):
        return codes[:, 1:] ** 3


def mean_around(at, places, values):
    """Shepard's (1968) mean of the twelve nearest, whose weights end at the thirteenth."""
    distance = np.linalg.norm(places - at, axis=1)
    order = distance.argsort()
    edge = distance[order[12]]
    weights = np.maximum(0, edge - distance) ** 2 / (edge * distance + 1e-9) ** 2
    return weights @ values / weights.sum()


def test_on_a_map_by_umap_the_point_has_the_mean_code_of_the_dots_around_it(browser, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Cubed))
    it = explorer(by_umap=True)
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    page = context.new_page()
    with served(it) as address:
        page.goto(address)
        begun(page)
        codes = np.concatenate([means(split) for split in ("test", "val", "train")]).astype(float)
        places = codes[:, 1:] ** 3
        np.testing.assert_allclose(page.evaluate("about.points"), places, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(page.evaluate("view.spot"), places[0], rtol=0.01, atol=0.01)
        box = page.locator("#map").bounding_box()
        page.mouse.move(box["x"] + 200, box["y"] + 300)
        page.mouse.down()
        page.mouse.move(box["x"] + 230, box["y"] + 250, steps=4)
        code = assert_shown(page)
        spot, middle, span = page.evaluate("[view.spot, view.middle, view.span]")
        expected = (np.array([229, 249]) / (box["width"] - 2) - 0.5) * span * [1, -1] + middle
        np.testing.assert_allclose(spot, expected, atol=0.004 * span)
        np.testing.assert_allclose(code, mean_around(np.array(spot), places, codes), rtol=0.01, atol=0.01)
        page.mouse.up()
        page.get_by_label("z1", exact=True).press("ArrowRight")
        code = assert_shown(page)
        np.testing.assert_allclose(page.evaluate("view.spot"), mean_around(code, codes, places), rtol=0.01, atol=0.01)
    context.close()
