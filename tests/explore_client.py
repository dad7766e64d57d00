"""An explorer of a small run, its server, and helpers for its page in a browser.

The run has named grey images on black and a linear model with 3 latent dimensions.
"""

import io
import threading
import time
from contextlib import contextmanager

import numpy as np
import torch
from fakes import load_data
from torch import nn

from datamodules.base import ImageDataModule, Images
from vae.api.trained_model import TrainedModel
from vae.explore.__main__ import open_socket
from vae.explore.explorer import Explorer
from vae.explore.server import Server, build_app
from vae.model.likelihoods import Bernoulli
from vae.model.posteriors import DiagonalNormal
from vae.model.priors import StandardNormal
from vae.model.vae import VAE

SHAPE = (1, 14, 10)
NAMES = ["pikachu", "charizard", "charmander", "mewtwo", "mew", "ditto", "raichu", "<b>onix</b>"]
TO_CODE = torch.randn(140, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.1, 0.6, 0.3])
TO_LOGIT = torch.randn(3, 140, generator=torch.Generator().manual_seed(2)) * 2
LOG_VAR = torch.tensor([-1.0, -2.0, -4.0])
SPLITS = ("test", "val", "train")


class Named(ImageDataModule):
    """60 images, 8 of them for the test. The label is the image number modulo 3."""

    def load(self):
        pixels = torch.zeros(60, *SHAPE, dtype=torch.uint8)
        pixels[:, :, 2:12, 2:8] = torch.randint(256, (60, 1, 10, 6), generator=torch.Generator().manual_seed(0)).byte()
        names = [*NAMES, *(f"other-{i}" for i in range(52))]
        images = Images(pixels, torch.arange(60) % 3, names)
        return self.split_off(images.select(torch.arange(8, 60))) | {"test": images.select(torch.arange(8))}


class Linear(nn.Module):
    """q(z|x) of images (B, 1, 14, 10) with the mean x @ TO_CODE."""

    def forward(self, x):
        mean = x.flatten(1) @ TO_CODE
        return DiagonalNormal(mean, LOG_VAR.expand_as(mean))


class Logits(nn.Module):
    """The logits z @ TO_LOGIT of codes (..., 3)."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(TO_LOGIT)

    def forward(self, z):
        return (z @ self.logit).unflatten(-1, SHAPE)


class Drafting(Bernoulli):
    """A likelihood whose drafts are the inverted previous image, so that they differ from the picture."""

    sampled_mean = True

    def draft_image(self, p_x, previous):  # noqa: ARG002
        return 1 - previous


def explorer(dataset=Named, bounded=True, by_umap=False, likelihood=Bernoulli):
    """Build an explorer of the linear model."""
    data = load_data(dataset)
    vae = VAE(nn.Identity(), Linear(), Logits(), likelihood(), StandardNormal(3, SHAPE))
    return Explorer("linear-run", "named, latent_dim=3", TrainedModel(vae, lambda: data), bounded, by_umap)


def encode_file(image, kind="PNG", **options):
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@contextmanager
def served(explorer, hosts=("127.0.0.1",)):
    """Serve the page of an explorer and yield its address."""
    with open_socket("127.0.0.1", 0) as open_port:
        server = Server(build_app(explorer, hosts))
        thread = threading.Thread(target=server.run, args=[[open_port]])
        thread.start()
        try:
            yield f"http://127.0.0.1:{open_port.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def picture(z):
    """Return the picture of a code by `Logits`: (14, 10) grey levels, 0 to 255."""
    return (torch.sigmoid(torch.as_tensor(z) @ TO_LOGIT) * 255).round().view(14, 10)


def means(split="test"):
    """Return the codes of a split by `Linear`, (N, 3)."""
    return (explorer().model.data.x(split).flatten(1) @ TO_CODE).numpy()


def all_means():
    """Return the codes of all images in the order of the map, (60, 3)."""
    return np.concatenate([means(split) for split in SPLITS]).astype(float)


def means_by_name():
    return {
        name: code
        for split, images in explorer().model.data.images.items()
        for name, code in zip(images.names, means(split), strict=True)
    }


@contextmanager
def opened_page(browser, address, **options):
    """Open the page and wait until it is ready. Fails on errors in the page, except for error responses (422)."""
    errors = []
    context = browser.new_context(**{"viewport": {"width": 1366, "height": 768}, "accept_downloads": True} | options)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda it: errors.append(it.text) if it.type == "error" and "422" not in it.text else None)
    page.on("request", lambda it: errors.append(it.url) if not it.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address)
    wait_until_ready(page)
    yield page
    context.close()
    assert errors == []


def wait_until_ready(page):
    """Wait until the first picture is on the screen."""
    page.wait_for_selector("body[data-ready]")
    page.wait_for_function("latencies.length > 0")


def z(page):
    return np.array(page.evaluate("z"))


def settled_code(page):
    """Return the current code once its picture is on the screen."""
    page.wait_for_function("!busy && !pending && !resting")
    return z(page)


def canvas(page, selector):
    """Return the grey levels of a canvas, (H, W)."""
    pixels = page.eval_on_selector(
        selector, "it => [it.height, it.width, ...it.getContext('2d').getImageData(0, 0, it.width, it.height).data]"
    )
    return np.array(pixels[2:]).reshape(*pixels[:2], 4)[..., 0]


def assert_picture_of_code(page):
    """Check that the picture is that of the current code, and return the code."""
    code = settled_code(page)
    np.testing.assert_allclose(canvas(page, "#picture"), picture(code.astype(np.float32)), atol=1)
    return code


def wait_for_text(page, element, text):
    """Wait until the text of the element with this id begins with `text`."""
    script = "([id, text]) => document.getElementById(id).textContent.startsWith(text)"
    page.wait_for_function(script, arg=[element, text])


def upload(page, name, content):
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


class HeldResponses:
    """Hold back the responses to a path. `release` lets them go in reverse order."""

    def __init__(self, page, path):
        self.page, self.routes = page, []
        page.route(path, lambda route: self.routes.append(route))

    def wait(self, n):
        """Wait until n requests have arrived."""
        deadline = time.monotonic() + 20
        while len(self.routes) < n:
            assert time.monotonic() < deadline, "no request arrived"
            self.page.wait_for_timeout(10)

    def release(self):
        for route in reversed(self.routes):
            with self.page.expect_response(route.request.url):
                route.continue_()
        self.page.wait_for_timeout(50)
