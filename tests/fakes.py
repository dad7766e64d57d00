"""A linear model and small datasets with known codes and pictures, and priors of 4 dimensions."""

import torch
from torch import nn

from datamodules.base import ImageDataModule, Images
from vae.model.likelihoods import Bernoulli
from vae.model.objectives import ELBO
from vae.model.posteriors import DiagonalNormal
from vae.model.priors import DiagonalGaussian, Flow, Mixture, StandardNormal, TwoLayers, VampPrior
from vae.model.vae import VAE

SHAPE = (1, 1, 4)
PRIORS = ["standard_normal", "diagonal_gaussian", "mixture", "vampprior", "flow", "two_layers"]
NAMES = ["pikachu", "charizard", "Mew", "mewtwo", "raichu", "ditto", "onix", "abra"]


class Named(ImageDataModule):
    """Colour images with names and without labels."""

    def load(self):
        pixels = torch.randint(256, (48, 3, 6, 5), generator=torch.Generator().manual_seed(0)).byte()
        names = [*NAMES, *(f"other-{i}" for i in range(40))]
        return self.split_off(Images(pixels[8:], names=names[8:])) | {"test": Images(pixels[:8], names=names[:8])}


class ItemELBO(ELBO):
    """The ELBO with a call of .item(), which breaks the compiled graph."""

    def __call__(self, terms, weight):
        assert terms.elbo.sum().item() < 0
        return super().__call__(terms, weight)


class Halves(nn.Module):
    """q(z|x) of 4 dimensions: 3 (2 x - 1) of the first two pixels, the first halved; the last two equal the prior."""

    def forward(self, x):
        mean = 3 * (2 * x.flatten(1)[:, :2] - 1) * torch.tensor([0.5, 1.0])
        return DiagonalNormal(torch.cat([mean, 0 * mean], 1), torch.tensor([-4.0, -4.0, 0, 0]).expand(len(x), 4))


class Pixels(nn.Module):
    """p(x|z) of 4 pixels whose logits are the first four dimensions of z."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z):
        return (z[..., :4] * self.scale).unflatten(-1, SHAPE)


class Four(ImageDataModule):
    """Images of 4 pixels with labels."""

    n, tests = 40, 10

    def load(self):
        pixels = torch.randint(256, (self.n, *SHAPE), generator=torch.Generator().manual_seed(1)).byte()
        training = Images(pixels[self.tests :], torch.arange(self.n - self.tests) % 3)
        return self.split_off(training) | {"test": Images(pixels[: self.tests])}


class LabelledFour(Four):
    """`Four` with labels of all images."""

    tests = 12

    def load(self):
        images = super().load()
        return images | {"test": images["test"]._replace(labels=torch.arange(self.tests) % 3)}


SHIFTS = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 2], [0, -1, 3, 0]])  # of the codes, for each of three labels
LOGITS = torch.tensor([[0.0, 0, 0, 0], [4, 0, -4, 0], [0, 5, 0, -5]])  # added to those of a picture


class LabelledHalves(Halves):
    """q(z|x, y): that of `Halves`, shifted by the label."""

    def forward(self, x, y):
        q_z = super().forward(x)
        return DiagonalNormal(q_z.mean + y @ SHIFTS, q_z.log_var)


class LabelledPixels(Pixels):
    """p(x|z, y): that of `Pixels`, with the logits of the label added."""

    def forward(self, z, y):
        return super().forward(z) + (y @ LOGITS).unflatten(-1, SHAPE)


def conditional_model():
    """Return a linear conditional model of three labels, and its data."""
    vae = VAE(LabelledHalves(), nn.Identity(), LabelledPixels(), Bernoulli(), StandardNormal(4, SHAPE, 3))
    data = load_data(LabelledFour)
    data.conditional = True
    return vae, data


def load_data(dataset):
    """Create a dataset without binarization and load its images."""
    data = dataset("data", 10, 0, 10, 0, "none")
    data.setup()
    return data


def code(x):
    """Return the means of `Halves`, computed by hand."""
    x = x.flatten(1)
    zero = torch.zeros(len(x))
    return torch.stack([3 * x[:, 0] - 1.5, 6 * x[:, 1] - 3, zero, zero], 1)


def build_prior(name):
    """Build a prior of 4 dimensions with random parameters."""
    torch.manual_seed(0)
    classes = {"standard_normal": StandardNormal, "diagonal_gaussian": DiagonalGaussian}
    classes |= {"mixture": Mixture, "vampprior": VampPrior, "flow": Flow}
    options = {"mixture": (3,), "vampprior": (3, 0.5), "flow": (2, 8)}.get(name, ())
    prior = TwoLayers(4, SHAPE, 2, 8, "tanh") if name == "two_layers" else classes[name](4, SHAPE, *options)
    for parameter in prior.parameters():
        if name != "vampprior":
            nn.init.normal_(parameter, std=0.7)
    return prior
