"""Sampling of latents to decode: from the prior with a temperature, or from a mixture fitted to given latents."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from vae.model.priors import DiagonalMixture, HierarchicalPrior

MAX_FULL_COVARIANCE = 64  # dimensions


@singledispatch
def sample_prior(p_z: Distribution, n: int, temperature: float) -> Tensor:
    """Sample n latents, (n, D), with the standard deviation around each mode of p(z) multiplied by the temperature.

    At temperature 1, these are samples of p(z). At 0, they are its modes. The default is one mode, the mean. For p(z|y)
    with n labels, there is one sample for each.
    """
    return torch.lerp(p_z.mean, p_z.sample(sample_shape(p_z, n)), temperature)


def sample_shape(p_z: Distribution, n: int) -> torch.Size:
    """Return the shape of n samples of p(z), or that of one for each of n labels of p(z|y)."""
    return torch.Size() if p_z.batch_shape else torch.Size([n])


@sample_prior.register
def _(p_z: DiagonalMixture, n: int, temperature: float) -> Tensor:
    k = torch.multinomial(p_z.log_pi.exp(), sample_shape(p_z, n).numel(), replacement=True).flatten()
    return torch.normal(p_z.means[k], temperature * p_z.scales[k])


@sample_prior.register
def _(p_z: TransformedDistribution, n: int, temperature: float) -> Tensor:
    z = sample_prior(p_z.base_dist, n, temperature)
    for step in p_z.transforms:
        z = step(z)
    return z


@sample_prior.register
def _(p_z: HierarchicalPrior, n: int, temperature: float) -> Tensor:
    z2 = sample_prior(p_z.p_z2, n, temperature)
    p_z1 = p_z.p_z1(z2)
    return torch.normal(p_z1.mean, temperature * p_z1.stddev)


def labels_in_turn(labels: int, n: int) -> tuple[Tensor, ...]:
    """Return n one-hot labels, (n, labels), each label in turn; nothing for a model without labels."""
    return (torch.eye(labels)[torch.arange(n) % labels],) if labels else ()


def sample_fitted_mixture(
    latents: Tensor, n: int, temperature: float = 1.0, seed: int = 0, components: int = 40
) -> Tensor:
    """Like `sample_prior`, (n, D), but sample from a Gaussian mixture fitted to latents, (N, D).

    Covariances are full for up to MAX_FULL_COVARIANCE dimensions, and diagonal for more: full ones would take minutes
    to fit. These samples stay close to the latents of real images, and often give better images (Ghosh et al. 2020).
    """
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    kind = "full" if latents.shape[1] <= MAX_FULL_COVARIANCE else "diag"
    components = max(1, min(components, len(latents) // 25))
    # With scikit-learn's own tolerance, the fit takes two to four times as long, and held-out latents are as likely.
    mixture = GaussianMixture(components, covariance_type=kind, reg_covar=0.01, tol=0.01, random_state=seed)
    fitted = latents.expand(max(2, len(latents)), -1)  # scikit-learn needs two; a single one is repeated
    with threadpool_limits(1):  # threads that share such small matrices take three times as long
        z, k = mixture.fit(fitted.double().cpu().numpy()).sample(n)
    order = np.random.default_rng(seed).permutation(n)
    z = mixture.means_[k] + temperature * (z - mixture.means_[k])
    return torch.from_numpy(z[order]).to(latents)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw the random numbers inside the block from this seed; None: from the global random generator, as it is."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
