"""Samples of all priors at several temperatures, and of a mixture fitted to latents."""

import pytest
import torch
from fakes import PRIORS, Halves, build_prior, code

from vae.model.sampling import sample_fitted_mixture, sample_prior


def modes(name, prior):
    """Return the modes of p(z), (n, D), written out for each prior."""
    if name == "flow":
        z = torch.zeros(1, 4)
        for step in prior(Halves()).transforms:
            z = step(z)
        return z
    return {
        "standard_normal": lambda: torch.zeros(1, 4),
        "diagonal_gaussian": lambda: prior.mean[None],
        "mixture": lambda: prior.means,
        "vampprior": lambda: code(prior.u.clamp(0, 1)),
        "two_layers": lambda: prior.decoder(torch.zeros(1, 2))[:, :4].tanh(),
    }[name]()


@pytest.mark.parametrize("name", PRIORS)
@torch.inference_mode()
def test_temperature_0_gives_the_modes_and_1_the_prior(name):
    prior = build_prior(name)
    z = sample_prior(prior(Halves()), 500, 0.0)
    expected = modes(name, prior)
    assert torch.cdist(z, expected).min(1).values.max() < 1e-3
    assert torch.cdist(expected, z).min(1).values.max() < 1e-3  # every mode occurs
    samples, expected_samples = sample_prior(prior(Halves()), 20_000, 1.0), prior(Halves()).sample((20_000,))
    scale = expected_samples.std(0)
    torch.testing.assert_close(samples.mean(0) / scale, expected_samples.mean(0) / scale, atol=0.05, rtol=0)
    torch.testing.assert_close(
        samples.quantile(torch.tensor([0.1, 0.9]), 0) / scale,
        expected_samples.quantile(torch.tensor([0.1, 0.9]), 0) / scale,
        atol=0.08,
        rtol=0,
    )


@pytest.mark.parametrize("name", ["standard_normal", "diagonal_gaussian", "mixture", "vampprior", "two_layers"])
@torch.inference_mode()
def test_temperature_scales_the_standard_deviation_around_a_mode(name):
    prior = build_prior(name)
    if name == "mixture":
        prior.means.mul_(100)
    if name == "two_layers":
        prior.decoder[-1].weight.zero_()  # p(z1|z2) does not depend on z2
    p_z = prior(Halves())
    centres = modes(name, prior)

    def std(temperature):
        z = sample_prior(p_z, 8000, temperature)
        return (z - centres[torch.cdist(z, centres).argmin(1)]).std()

    if name != "vampprior":
        assert std(2.0) / std(1.0) == pytest.approx(2, rel=0.05)
    assert std(0.1) / std(0.05) == pytest.approx(2, rel=0.05)


def test_fitted_mixture_samples_near_the_latents():
    torch.manual_seed(0)
    centres = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
    latents = (centres[:, None] + 0.3 * torch.randn(2, 25, 2)).flatten(0, 1)
    assert torch.cdist(sample_fitted_mixture(latents, 100, 0.0), centres).min(1).values.max() < 0.3
    assert (
        torch.cdist(sample_fitted_mixture(latents, 100), centres).argmin(1).diff().count_nonzero() > 20
    )  # in random order
    distance = [torch.cdist(sample_fitted_mixture(latents, 500, t), centres).min(1).values.mean() for t in (1.0, 3.0)]
    assert 2 < distance[1] / distance[0] < 4
    first, second = (sample_fitted_mixture(latents, 9, seed=seed).sort(0).values for seed in (0, 1))
    assert not torch.equal(first, second)


def test_a_mixture_of_one_latent_and_of_many_dimensions():
    torch.manual_seed(0)
    latent = torch.randn(1, 3)
    assert (sample_fitted_mixture(latent, 200).mean(0) - latent[0]).abs().max() < 0.1  # its variance is 0.01
    scales = torch.linspace(0.2, 2, 400)
    z = sample_fitted_mixture(torch.randn(2000, 400) * scales, 2000)  # minutes with full covariances
    torch.testing.assert_close(z.std(0), (scales**2 + 0.01).sqrt(), atol=0.1, rtol=0.1)
