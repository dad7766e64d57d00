"""Codes drawn about the peaks of every prior, and where known codes lie."""

import pytest
import torch
from fakes import PRIORS, Halves, build_prior, code

from vae.model.sampling import draw, draw_near


def peaks(name, prior):
    """Where p(z) has its peaks, (n, D), each written out."""
    if name == "flow":
        z = torch.zeros(1, 4)
        for step in prior(Halves()).transforms:
            z = step(z)
        return z
    return {
        "standard_normal": lambda: torch.zeros(1, 4),
        "mixture": lambda: prior.means,
        "vampprior": lambda: code(prior.u.clamp(0, 1)),
        "two_layers": lambda: prior.down(torch.zeros(1, 2))[:, :4],
    }[name]()


@pytest.mark.parametrize("name", PRIORS)
@torch.inference_mode()
def test_temperature_0_is_a_peak_of_the_prior_and_1_the_prior(name):
    prior = build_prior(name)
    found = draw(prior(Halves()), 500, 0.0)
    known = peaks(name, prior)
    assert torch.cdist(found, known).min(1).values.max() < 1e-3
    assert torch.cdist(known, found).min(1).values.max() < 1e-3  # and each of the peaks is found
    ours, theirs = draw(prior(Halves()), 20_000, 1.0), prior(Halves()).sample((20_000,))
    far = theirs.std(0)
    torch.testing.assert_close(ours.mean(0) / far, theirs.mean(0) / far, atol=0.05, rtol=0)
    torch.testing.assert_close(
        ours.quantile(torch.tensor([0.1, 0.9]), 0) / far,
        theirs.quantile(torch.tensor([0.1, 0.9]), 0) / far,
        atol=0.08,
        rtol=0,
    )


@pytest.mark.parametrize("name", ["standard_normal", "mixture", "vampprior", "two_layers"])
@torch.inference_mode()
def test_temperature_is_the_spread_about_a_peak(name):
    prior = build_prior(name)
    if name == "mixture":
        prior.means.mul_(100)
    if name == "two_layers":
        prior.down[-1].weight.zero_()  # p(z1|z2) is the same for every z2
    p_z = prior(Halves())
    at = peaks(name, prior)

    def spread(temperature):
        z = draw(p_z, 8000, temperature)
        return (z - at[torch.cdist(z, at).argmin(1)]).std()

    if name != "vampprior":
        assert spread(2.0) / spread(1.0) == pytest.approx(2, rel=0.05)
    assert spread(0.1) / spread(0.05) == pytest.approx(2, rel=0.05)


def test_the_mixture_is_drawn_about_where_the_codes_are():
    torch.manual_seed(0)
    centres = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
    codes = (centres[:, None] + 0.3 * torch.randn(2, 25, 2)).flatten(0, 1)
    assert torch.cdist(draw_near(codes, 100, 0.0), centres).min(1).values.max() < 0.3
    assert torch.cdist(draw_near(codes, 100), centres).argmin(1).diff().count_nonzero() > 20  # in no order
    spread = [torch.cdist(draw_near(codes, 500, t), centres).min(1).values.mean() for t in (1.0, 3.0)]
    assert 2 < spread[1] / spread[0] < 4
    found, others = (draw_near(codes, 9, seed=seed).sort(0).values for seed in (0, 1))
    assert not torch.equal(found, others)
