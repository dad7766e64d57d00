"""Sliders, buttons and kept pictures of the page, in a browser."""

import json

import numpy as np
import pytest
from explore_client import (
    HeldResponses,
    assert_picture_of_code,
    canvas,
    explorer,
    means,
    opened_page,
    picture,
    served,
    settled_code,
    wait_for_text,
    wait_until_ready,
    z,
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


def test_a_slider_changes_one_dimension(page):
    before = settled_code(page)
    labels = [it.get_attribute("aria-label") for it in page.locator("#dimensions input").all()]
    assert labels == [f"z{row['d'] + 1}" for row in explorer().about["dimensions"]]
    assert labels[0] == "z2"
    assert not page.locator(".information").first.is_visible()
    page.get_by_text("How informative is each dimension?").click()
    assert (
        page.locator(".information").first.inner_text()
        == f"{explorer().about['dimensions'][0]['information']:.2f} nats"
    )
    assert "KL(q(z|x) || p(z))" in page.locator("#information-help").inner_text()
    slider = page.get_by_label("z2", exact=True)
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    after = assert_picture_of_code(page)
    assert after[1] > before[1]
    np.testing.assert_allclose(after[[0, 2]], before[[0, 2]])
    slider.press("End")
    assert assert_picture_of_code(page)[1] == pytest.approx(explorer().about["dimensions"][0]["high"])
    page.wait_for_function("document.querySelector('.dimension output').textContent === z[1].toFixed(2)")
    slider.press("Home")
    assert assert_picture_of_code(page)[1] == pytest.approx(explorer().about["dimensions"][0]["low"])


def test_random_reset_and_kept_pictures(page):
    page.keyboard.press("0")
    np.testing.assert_allclose(assert_picture_of_code(page), means("train").mean(0), atol=1e-4)
    page.get_by_role("button", name="Keep").click()
    page.keyboard.press("r")
    page.wait_for_function("z.some((value, d) => Math.abs(value - about.mean_code[d]) > 1e-6)")
    drawn = assert_picture_of_code(page)
    page.keyboard.press("k")
    page.wait_for_function("document.querySelectorAll('#favourites figure').length === 2")
    np.testing.assert_allclose(canvas(page, "#favourites figure:nth-child(2) canvas"), canvas(page, "#picture"))
    page.reload()
    wait_until_ready(page)
    assert page.locator("#favourites figure").count() == 2
    page.get_by_label("show kept picture 2").click()
    np.testing.assert_allclose(assert_picture_of_code(page), drawn)

    with page.expect_download() as download:
        page.get_by_role("button", name="Download codes").click()
    assert download.value.suggested_filename == "linear-run-codes.json"
    codes = json.loads(download.value.path().read_text())
    np.testing.assert_allclose(codes[1], drawn)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download pictures").click()
    sheet = np.asarray(Image.open(download.value.path()).convert("L")).astype(float)
    zoom = round(256 / 14)
    second = sheet[8 : 8 + 14 * zoom, 10 * zoom + 16 :][:, : 10 * zoom]
    np.testing.assert_allclose(second[zoom // 2 :: zoom, zoom // 2 :: zoom], picture(drawn.astype(np.float32)), atol=1)

    page.get_by_label("remove kept picture 1").click()
    page.wait_for_function("document.querySelectorAll('#favourites figure').length === 1")
    assert page.evaluate("JSON.parse(localStorage.getItem('vae linear-run'))") == [codes[1]]
    page.get_by_label("remove kept picture 1").click()
    page.wait_for_function("document.getElementById('kept').hidden")


@pytest.mark.parametrize("left", ["{", "7", "null", '"abc"', '[null, 1, "abc", [1, 2], [1, 2, "x"]]'])
def test_damaged_local_storage_is_ignored(page, left):
    page.evaluate("left => localStorage.setItem('vae linear-run', left)", left)
    page.reload()
    wait_until_ready(page)
    assert page.locator("#kept").is_hidden()
    page.keyboard.press("k")
    page.wait_for_function("document.querySelectorAll('#favourites figure').length === 1")
    np.testing.assert_allclose(page.evaluate("JSON.parse(localStorage.getItem('vae linear-run'))"), [z(page)])


@pytest.mark.parametrize(
    "forbid",
    [
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }",
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })",
    ],
)
def test_without_local_storage_pictures_are_kept_by_the_page(page, forbid):
    page.add_init_script(forbid)
    page.reload()
    wait_until_ready(page)
    page.keyboard.press("k")
    wait_for_text(page, "message", "kept only until this page is closed")
    assert page.locator("#favourites figure").count() == 1


def test_the_latest_list_of_kept_pictures_is_shown(page):
    settled_code(page)
    held = HeldResponses(page, "**/decode")
    for n in (1, 2):
        page.evaluate("n => void setKept(Array(n).fill(about.mean_code))", n)
        held.wait(n)
    held.release()
    assert page.locator("#favourites figure").count() == 2


def test_two_tabs_share_kept_pictures(page, address):
    other = page.context.new_page()
    other.goto(address)
    wait_until_ready(other)
    for tab, n in ((page, 1), (other, 2)):
        tab.keyboard.press("0")
        tab.get_by_role("button", name="Keep").click()
        for each in (page, other):
            each.wait_for_function("n => document.querySelectorAll('#favourites figure').length === n", arg=n)


def test_a_held_key_keeps_one_picture(page):
    settled_code(page)
    for _ in range(4):
        page.keyboard.down("k")
    page.keyboard.up("k")
    page.wait_for_function("document.querySelectorAll('#favourites figure').length > 0")
    assert page.evaluate("kept.length") == 1
