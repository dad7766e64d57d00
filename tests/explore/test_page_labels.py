"""The page's label chooser, with a conditional model whose pictures are known."""

import httpx
import numpy as np
import pytest
import torch
from explore_client import canvas, explorer, opened_page, served, settled_code
from fakes import LOGITS, SHIFTS, code, conditional_model

from vae.api.trained_model import TrainedModel
from vae.errors import UserError
from vae.explore.explorer import Explorer

NAMES = ["0", "1", "2"]


def conditional_explorer():
    vae, data = conditional_model()
    return Explorer("labels", "four", TrainedModel(vae, lambda: data, label_names=NAMES), bounded=True)


def grey(z, label):
    """Return the picture of a code with a label, 0 to 255, (4,)."""
    return ((torch.as_tensor(z) + LOGITS[label]).sigmoid() * 255).round()


@pytest.fixture(scope="module")
def address():
    with served(conditional_explorer()) as address:
        yield address


def test_images_are_encoded_with_their_labels_and_codes_decoded_with_the_given_one(address):
    client = httpx.Client(base_url=address)
    assert client.get("/about").json()["label_choices"] == NAMES
    image = client.get("/encode/test/4").json()
    z = code(conditional_explorer().model.data.x("test"))[4] + SHIFTS[1]
    np.testing.assert_allclose(image["z"], z, atol=1e-6)
    for label in range(3):
        body = client.post("/decode", json={"codes": [image["z"]], "label": label}).content
        np.testing.assert_allclose(np.frombuffer(body, np.uint8)[::4], grey(z, label), atol=1)
    assert len(client.get("/sample?label=2").json()) == 4
    assert len(client.get("/interpolate?first=test/1&second=test/2").json()) == 51


@pytest.mark.parametrize("label", ["", "&label=3", "&label=-1", "&label=x"])
def test_a_missing_or_wrong_label_is_one_line(label, address):
    for response in (
        httpx.get(f"{address}/sample?{label}"),
        httpx.post(f"{address}/encode?drawn{label}", content=b""),
    ):
        assert response.status_code == 422
    explorer = conditional_explorer()
    with pytest.raises(UserError, match="label=None: expected 0 to 2, the number of a label"):
        explorer.decode([[0.0] * 4])


def test_the_chooser_keeps_the_code_and_changes_the_label(browser, address):
    with opened_page(browser, address) as page:
        chooser = page.locator("#label")
        assert chooser.locator("option").all_inner_texts() == NAMES
        page.evaluate("selectImage('test/4')")
        page.wait_for_function("document.getElementById('label').value === '1'")
        before = settled_code(page)
        np.testing.assert_allclose(canvas(page, "#picture").flatten(), grey(before, 1), atol=2)
        chooser.select_option("2")
        page.wait_for_function("!busy")
        np.testing.assert_allclose(settled_code(page), before)
        np.testing.assert_allclose(canvas(page, "#picture").flatten(), grey(before, 2), atol=2)


def test_an_unconditional_model_has_no_chooser(browser):
    with served(explorer()) as address, opened_page(browser, address) as page:
        assert page.locator("#given").is_hidden()
