"""Fusion of two images on the page, in a browser."""

import numpy as np
import pytest
import torch
from explore_client import (
    HeldResponses,
    assert_picture_of_code,
    canvas,
    explorer,
    means,
    means_by_name,
    opened_page,
    picture,
    served,
    wait_for_text,
)

from vae.model.interpolation import spherical


@pytest.fixture(scope="module")
def address():
    with served(explorer()) as address:
        yield address


@pytest.fixture
def page(browser, address):
    with opened_page(browser, address) as page:
        yield page


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
    np.testing.assert_allclose(assert_picture_of_code(page), middle, atol=1e-4)
    slider = page.get_by_label("between the two images")
    for end, code in (("Home", a), ("End", b)):
        slider.press(end)
        np.testing.assert_allclose(assert_picture_of_code(page), code, atol=1e-4)
    np.testing.assert_allclose(canvas(page, "#strip button:nth-child(3) canvas"), picture(middle), atol=1)
    page.locator("#strip button").nth(2).click()
    np.testing.assert_allclose(assert_picture_of_code(page), middle, atol=1e-4)
    page.get_by_label("the first image").fill("missingno")
    wait_for_text(page, "first-list", "no match")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert page.locator("#first-list").is_hidden()


@pytest.mark.parametrize(("drawn", "rows"), [(0, (0, 1)), (0.75, (45, 30)), (0.999, (59, 58))])
def test_random_pair_is_fused(page, drawn, rows):
    page.get_by_role("tab", name="Fuse").click()
    page.evaluate("drawn => { Math.random = () => drawn; }", drawn)
    page.get_by_role("button", name="Random pair").click()
    page.wait_for_function("document.querySelectorAll('#strip canvas').length === 5")
    expected = page.evaluate("rows => rows.map(row => about.images[row][1])", rows)
    assert [
        page.get_by_label(f"the {which} image", exact=True).input_value() for which in ("first", "second")
    ] == expected
    codes = means_by_name()
    a, b = (torch.from_numpy(codes[name]) for name in expected)
    np.testing.assert_allclose(assert_picture_of_code(page), spherical(a, b, torch.tensor([0.5]))[0], atol=1e-4)


def test_the_latest_pair_is_on_the_slider(page):
    page.get_by_role("tab", name="Fuse").click()
    held = HeldResponses(page, "**/interpolate**")
    for n, first in enumerate(("test/2", "test/3"), 1):
        page.evaluate("first => { Object.assign(parents, { first, second: 'test/7' }); void fuse(); }", first)
        held.wait(n)
    held.release()
    page.wait_for_function("document.querySelectorAll('#strip canvas').length === 5")
    np.testing.assert_allclose(page.evaluate("[path[0], path.at(-1)]"), means()[[3, 7]], atol=1e-4)
    slider = page.get_by_label("between the two images")
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == "100 % of the second image"


def test_enter_waits_for_the_results_of_the_current_text(page):
    page.get_by_role("tab", name="Fuse").click()
    box = page.get_by_label("the first image")
    box.fill("ditto")
    page.wait_for_function("document.querySelectorAll('#first-list li').length === 1")
    held = HeldResponses(page, "**/search?*")
    box.fill("raichu")
    box.press("Enter")
    held.wait(1)
    held.release()
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
    assert page.locator("#first-list").is_hidden(), "the input has lost the focus"
    assert box.input_value() == "raichu", "the chosen image"
