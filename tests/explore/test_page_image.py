"""Selected, uploaded and drawn images on the page, in a browser."""

import re

import numpy as np
import pytest
from explore_client import (
    TO_CODE,
    HeldResponses,
    assert_picture_of_code,
    canvas,
    encode_file,
    explorer,
    means,
    opened_page,
    served,
    settled_code,
    upload,
    wait_for_text,
    wait_until_ready,
)
from PIL import Image


@pytest.fixture(scope="module")
def address():
    with served(explorer()) as address:
        yield address


@pytest.fixture
def page(browser, address):
    with opened_page(browser, address) as page:
        yield page


def test_uploaded_picture_is_encoded_and_scored(page):
    page.get_by_role("tab", name="Your picture").click()
    pixels = np.random.default_rng(0).integers(0, 256, (14, 10), np.uint8)
    upload(page, "mine.png", encode_file(Image.fromarray(pixels)))
    wait_for_text(page, "title", "your picture")
    np.testing.assert_allclose(assert_picture_of_code(page), (pixels / 255).flatten() @ TO_CODE.numpy(), atol=1e-4)
    np.testing.assert_array_equal(canvas(page, "#original"), pixels)
    page.wait_for_function("document.getElementById('scale').childElementCount === 9")
    text = page.locator("#score").inner_text()
    score = float(
        re.match("log p\\(x\\) \u2248 (\u2212.*) nats, estimated with 20 samples; ", text)[1].replace("\u2212", "-")
    )
    worse = sum(other < score for other in explorer().reference_scores)
    assert text.endswith(f"more likely than {worse} of 8 test images")


def test_unreadable_files_show_a_message_and_keep_the_code(page):
    page.get_by_role("tab", name="Your picture").click()
    before = settled_code(page)
    for name, content, message in [
        ("text.png", b"not a picture", "not a PNG, JPEG"),
        ("dot.png", encode_file(Image.new("L", (1, 1))), "1 x 1 pixels: expected at least 4 per side"),
    ]:
        upload(page, name, content)
        wait_for_text(page, "message", message)
        np.testing.assert_array_equal(assert_picture_of_code(page), before)
    page.evaluate("upload(new Blob([new Uint8Array(100e6)]))")
    wait_for_text(page, "message", "100.0 MB: expected at most 16 MB")
    frames = [Image.new("L", (14, 20), level) for level in (250, 0)]
    upload(page, "moves.gif", encode_file(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    wait_for_text(page, "message", "animated image: the first of 2 frames")
    wait_for_text(page, "title", "your picture")
    assert canvas(page, "#original").max() == 5  # inverted, as the dataset is light on dark
    page.keyboard.press("0")
    page.wait_for_function("document.getElementById('message').textContent === ''")


def test_picture_is_dropped_anywhere(page):
    png = list(encode_file(Image.new("L", (10, 14), 128)))
    page.evaluate(
        """bytes => {
        const dropped = new DataTransfer();
        dropped.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true }));
    }""",
        png,
    )
    wait_for_text(page, "title", "your picture")
    np.testing.assert_allclose(assert_picture_of_code(page), 128 / 255 * TO_CODE.sum(0), atol=1e-3)


def test_drawing_is_encoded(page):
    page.get_by_role("tab", name="Your picture").click()
    box = page.locator("#paper").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] + 120, steps=5)
    page.mouse.up()
    wait_for_text(page, "title", "your drawing")
    original = canvas(page, "#original").astype(float)
    rows = np.flatnonzero(original.sum(1) > 100)
    assert abs(np.average(np.arange(10) + 0.5, weights=original.sum(0)) - 5) <= 0.5
    assert abs(rows.mean() + 0.5 - 7) <= 1
    assert_picture_of_code(page)
    page.get_by_role("button", name="Clear").click()
    assert canvas(page, "#paper").max() == 0


def test_the_latest_selected_image_is_shown(page):
    settled_code(page)
    held = HeldResponses(page, "**/encode/*/*")
    page.evaluate("void selectImage('test/3')")
    held.wait(1)
    page.evaluate("void selectImage('test/4')")
    held.wait(2)
    held.release()
    assert page.locator("#title").inner_text() == "mew, label 1"
    np.testing.assert_allclose(assert_picture_of_code(page), means()[4], atol=1e-4)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("**/encode/*/*", "void selectImage('test/3')"),
        ("**/sample", "void showSample()"),
        ("**/encode?drawn", "paper.strokeStyle = '#fff', paper.strokeRect(20, 20, 99, 99), void uploadDrawing()"),
        ("**/interpolate**", "void chooseRandomPair()"),
    ],
)
def test_late_response_does_not_undo_a_later_action(page, path, asked):
    settled_code(page)
    held = HeldResponses(page, path)
    page.evaluate(asked)
    held.wait(1)
    page.keyboard.press("0")
    held.release()
    np.testing.assert_allclose(assert_picture_of_code(page), means("train").mean(0), atol=1e-4)
    assert not page.locator("#selected").is_visible()


def test_page_of_another_run_gets_an_error(page):
    before = canvas(page, "#picture")
    page.evaluate("about.run = 'another'")
    page.keyboard.press("0")
    message = "this page shows another, but linear-run is explored now; reload the page"
    wait_for_text(page, "message", message)
    np.testing.assert_array_equal(canvas(page, "#picture"), before)


def test_message_when_the_server_does_not_respond(browser):
    context = browser.new_context()
    page = context.new_page()
    with served(explorer()) as address:
        page.goto(address)
        wait_until_ready(page)
        page.route("**/decode", lambda route: route.abort())
        page.get_by_role("button", name="Reset").click()
        page.wait_for_function("document.getElementById('message').textContent.includes('is it still running?')")
        page.route("**/reference_scores", lambda route: route.abort())
        page.unroute("**/decode")
        page.evaluate("referenceScores = null, void selectImage('test/1')")
        page.wait_for_function("referenceScores === null && document.getElementById('message').textContent !== ''")
        page.unroute("**/reference_scores")
        page.evaluate("void selectImage('test/2')")
        page.wait_for_function("document.getElementById('scale').childElementCount === 9")
        context.close()
