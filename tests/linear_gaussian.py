"""A linear-Gaussian VAE, with known log p(x) and p(z|x): z ~ N(0, I), x = Wz + noise."""

import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from vae.model.likelihoods import Likelihood
from vae.model.priors import StandardNormal
from vae.model.vae import VAE

D, PIXELS, NOISE = 2, 4, 0.5
SHAPE = (1, 2, 2)


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
