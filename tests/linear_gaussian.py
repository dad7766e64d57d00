"""Linear-Gaussian VAEs, with known log p(x) and p(z|x): z ~ N(0, I), x = Wz + noise, or x = Wz + b_y + noise."""

import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from datamodules.labels import one_hot
from vae.model.likelihoods import Likelihood
from vae.model.networks import ConditionalDecoder, ConditionalEncoder
from vae.model.priors import StandardNormal
from vae.model.vae import VAE

D, PIXELS, NOISE = 2, 4, 0.5
SHAPE = (1, 2, 2)
LABELS = 3


class Gaussian(Likelihood):
    def forward(self, h):
        return Independent(Normal(h, NOISE), 3)


class Linear(nn.Module):
    def __init__(self, W):
        super().__init__()
        self.W = W

    def forward(self, z):
        return (z @ self.W.T).unflatten(-1, SHAPE)


class Posterior(nn.Module):
    """The exact posterior p(z|x), with its standard deviations multiplied by `widen`."""

    def __init__(self, W, widen):
        super().__init__()
        self.covariance = torch.linalg.inv(torch.eye(D) + W.T @ W / NOISE**2)
        self.to_mean = self.covariance @ W.T / NOISE**2
        self.widen = widen

    def forward(self, x):
        return MultivariateNormal(x.flatten(1) @ self.to_mean.T, self.covariance * self.widen**2)


def linear_gaussian(widen, n=5, W=None):
    """Return a VAE, n images sampled from it, and their exact log p(x), (n,)."""
    torch.manual_seed(0)
    W = torch.randn(PIXELS, D) if W is None else W
    marginal = MultivariateNormal(torch.zeros(PIXELS), W @ W.T + NOISE**2 * torch.eye(PIXELS))
    x = marginal.sample((n,))
    vae = VAE(nn.Identity(), Posterior(W, widen), Linear(W), Gaussian(), StandardNormal(D, SHAPE))
    return vae, x.unflatten(-1, SHAPE), marginal.log_prob(x)


class ExactPosterior(nn.Module):
    """Encoder of (image, channel of the label): the exact p(z|x, y) of x = Wz + b_y + noise, if the channel is b_y."""

    def __init__(self, W):
        super().__init__()
        self.covariance = torch.linalg.inv(torch.eye(D) + W.T @ W / NOISE**2)
        self.to_mean = self.covariance @ W.T / NOISE**2

    def forward(self, x):
        pixels, channel = x.flatten(2).unbind(1)
        return MultivariateNormal((pixels - channel) @ self.to_mean.T, self.covariance)


class LinearPixels(nn.Linear):
    def forward(self, z):
        return super().forward(z).unflatten(-1, SHAPE)


def linear_gaussian_of_labels(n):
    """Return a conditional VAE with x = Wz + b_y + noise, n images, their labels y, and their exact log p(x|y)."""
    torch.manual_seed(0)
    W, b = torch.randn(PIXELS, D), 3 * torch.randn(PIXELS, LABELS)
    y = one_hot(torch.arange(n) % LABELS, LABELS)
    marginal = MultivariateNormal(y @ b.T, W @ W.T + NOISE**2 * torch.eye(PIXELS))
    x = marginal.sample()
    encoder, decoder = (
        ConditionalEncoder(ExactPosterior(W), LABELS, SHAPE),
        LinearPixels(D + LABELS, PIXELS, bias=False),
    )
    with torch.no_grad():
        encoder.embedding.weight.copy_(b)
        decoder.weight.copy_(torch.cat([W, b], 1))
    vae = VAE(encoder, nn.Identity(), ConditionalDecoder(decoder), Gaussian(), StandardNormal(D, SHAPE, LABELS))
    return vae, x.unflatten(-1, SHAPE), y, marginal.log_prob(x)
