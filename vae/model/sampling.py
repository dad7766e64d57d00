"""Codes to decode: drawn from the prior, as widely as a temperature says, or from a mixture fitted to known codes."""

from functools import singledispatch

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from vae.model.posteriors import DiagonalNormal
from vae.model.priors import DiagonalMixture, HierarchicalPrior


@singledispatch
def draw(p_z: Distribution, n: int, temperature: float) -> Tensor:
    """n codes, (n, D), whose distance from the peak they belong to is multiplied by the temperature.

    At 1 they are of p(z) itself, at 0 they are peaks. Here, of one peak: the mean.
    """
    return torch.lerp(p_z.mean, p_z.sample(torch.Size([n])), temperature)


@draw.register
def _(p_z: DiagonalMixture, n: int, temperature: float) -> Tensor:
    k = torch.multinomial(p_z.log_pi.exp(), n, replacement=True)
    return torch.normal(p_z.means[k], temperature * p_z.scales[k])


@draw.register
def _(p_z: TransformedDistribution, n: int, temperature: float) -> Tensor:
    z = draw(p_z.base_dist, n, temperature)
    for step in p_z.transforms:
        z = step(z)
    return z


@draw.register
def _(p_z: HierarchicalPrior, n: int, temperature: float) -> Tensor:
    p_z1 = DiagonalNormal(*p_z.down(draw(p_z.p_z2, n, temperature)).chunk(2, -1))
    return torch.normal(p_z1.mean, temperature * p_z1.stddev)


def draw_near(codes: Tensor, n: int, temperature: float = 1.0, seed: int = 0, components: int = 40) -> Tensor:
    """As `draw`, (n, D), of a Gaussian mixture fitted to codes (N, D).

    It goes only where codes lie, and so often gives better pictures than the prior (Ghosh et al. 2020).
    """
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(max(1, min(components, len(codes) // 25)), reg_covar=0.01, random_state=seed)
    z, k = mixture.fit(codes.double().cpu().numpy()).sample(n)
    order = np.random.default_rng(seed).permutation(n)
    near = mixture.means_[k] + temperature * (z - mixture.means_[k])
    return torch.from_numpy(near[order]).to(codes)
