"""A run made by hand, to be explored: named grey images on black, and a model of 3 codes that is linear."""

import io
import threading
from contextlib import contextmanager

import torch
from fakes import load_data
from torch import nn

from datamodules.base import ImageDataModule, Images
from vae.explore.__main__ import listening
from vae.explore.explorer import Explorer
from vae.explore.server import Server, app
from vae.generate.session import Session
from vae.model.likelihoods import Bernoulli
from vae.model.posteriors import DiagonalNormal
from vae.model.priors import StandardNormal
from vae.model.vae import VAE

SHAPE = (1, 14, 10)
NAMES = ["pikachu", "charizard", "charmander", "mewtwo", "mew", "ditto", "raichu", "<b>onix</b>"]
TO_CODE = torch.randn(140, 3, generator=torch.manual_seed(1)) * torch.tensor([0.1, 0.6, 0.3])
TO_LOGIT = torch.randn(3, 140, generator=torch.manual_seed(2)) * 2
LOG_VAR = torch.tensor([-1.0, -2.0, -4.0])


class Named(ImageDataModule):
    """60 images, 8 of them for the test; the label is the number modulo 3."""

    def load(self):
        pixels = torch.zeros(60, *SHAPE, dtype=torch.uint8)
        pixels[:, :, 2:12, 2:8] = torch.randint(256, (60, 1, 10, 6), generator=torch.manual_seed(0)).byte()
        names = [*NAMES, *(f"other-{i}" for i in range(52))]
        every = Images(pixels, torch.arange(60) % 3, names)
        return self.split_off(every.at(torch.arange(8, 60))) | {"test": every.at(torch.arange(8))}


class Linear(nn.Module):
    """Of images (B, 1, 14, 10), q(z|x) with the mean x @ TO_CODE."""

    def forward(self, x):
        mean = x.flatten(1) @ TO_CODE
        return DiagonalNormal(mean, LOG_VAR.expand_as(mean))


class Logits(nn.Module):
    """Of codes (..., 3), the logits z @ TO_LOGIT."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(TO_LOGIT)

    def forward(self, z):
        return (z @ self.logit).unflatten(-1, SHAPE)


def explorer(kind=Named, bounded=True, by_umap=False):
    data = load_data(kind)
    vae = VAE(nn.Identity(), Linear(), Logits(), Bernoulli(), StandardNormal(3, SHAPE))
    return Explorer("made-by-hand", "named, latent_dim=3", Session(vae, data), bounded, by_umap)


def file(image, kind="PNG", **about):
    """The bytes of a picture file."""
    made = io.BytesIO()
    image.save(made, kind, **about)
    return made.getvalue()


@contextmanager
def served(it, hosts=("127.0.0.1",)):
    """The address of the page of an explorer."""
    with listening("127.0.0.1", 0) as taken:
        server = Server(app(it, hosts))
        thread = threading.Thread(target=server.run, args=[[taken]])
        thread.start()
        try:
            yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def picture(z):
    """What `Logits` makes of a code: (14, 10) grey levels, 0 to 255."""
    return (torch.sigmoid(torch.as_tensor(z) @ TO_LOGIT) * 255).round().view(14, 10)
