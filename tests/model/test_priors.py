"""Priors, against torch's own densities, Jacobians by automatic differentiation, and the fact that mass sums to one."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from vae.errors import UserError
from vae.model.flows import Affine, Coupling
from vae.model.posteriors import DiagonalGaussian, DiagonalNormal
from vae.model.priors import DiagonalMixture, Flow, Mixture, StandardNormal, TwoLayers, VampPrior

SHAPE = (1, 2, 3)


def disturbed(module, by=0.3):
    """With all its weights moved, as if trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn_like(parameter)
    return module


class Q(torch.nn.Module):
    """q(z|x) of two dimensions by a linear encoder."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Linear(6, 4)
        self.posterior = DiagonalGaussian(2)

    def forward(self, x):
        return self.posterior(self.encoder(x.flatten(1)))


PRIORS = {
    "standard_normal": lambda: StandardNormal(2, SHAPE),
    "mixture": lambda: disturbed(Mixture(2, SHAPE, 5)),
    "vampprior": lambda: disturbed(VampPrior(2, SHAPE, 4, 0.5)),
    "flow": lambda: disturbed(Flow(2, SHAPE, 3, 16), 0.1),
    "two_layers": lambda: disturbed(TwoLayers(2, SHAPE, 3, [8, 6], "tanh"), 0.1),
}


@pytest.mark.parametrize("name", PRIORS)
def test_the_mass_of_a_prior_is_one(name):
    p_z = PRIORS[name]()(Q())
    side = torch.linspace(-9, 9, 451)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    with torch.no_grad():
        mass = p_z.log_prob(grid).double().exp().sum().item() * (18 / 450) ** 2
    assert mass == pytest.approx(1, abs=0.02 if name == "two_layers" else 2e-3)


@pytest.mark.parametrize("name", PRIORS)
def test_samples_are_those_of_the_density(name):
    p_z = PRIORS[name]()(Q())
    torch.manual_seed(0)
    with torch.no_grad():
        z = p_z.sample((40_000,))
        side = torch.linspace(-9, 9, 451)
        grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).flatten(0, 1)
        mass = p_z.log_prob(grid).double().exp() * (18 / 450) ** 2
    assert z.shape == (40_000, 2)
    torch.testing.assert_close(z.double().mean(0), mass @ grid.double(), atol=0.06, rtol=0.03)
    torch.testing.assert_close(z.double().square().mean(0), mass @ grid.double().square(), atol=0.12, rtol=0.05)


def test_a_mixture_is_torch_s():
    torch.manual_seed(0)
    log_pi, mean, scale = torch.randn(7).log_softmax(0), torch.randn(7, 5), torch.rand(7, 5) + 0.05
    parts = Independent(Normal(mean.double(), scale.double()), 1)
    exact = MixtureSameFamily(Categorical(logits=log_pi.double()), parts)
    z = 2 * torch.randn(3, 4, 5)
    found = DiagonalMixture(log_pi, mean, scale).log_prob(z)
    torch.testing.assert_close(found.double(), exact.log_prob(z.double()), atol=2e-3, rtol=1e-5)


def test_the_vampprior_is_the_mean_of_q_at_its_pseudo_inputs_whatever_q_is_by_then():
    q, prior = Q(), VampPrior(2, SHAPE, 4, 0.5)
    z = torch.randn(6, 2)
    for _ in range(2):
        parts = torch.stack([q(u[None].clamp(0, 1)).log_prob(z) for u in prior.u])
        torch.testing.assert_close(prior(q).log_prob(z), parts.exp().mean(0).log())
        disturbed(q)
        disturbed(prior)
    prior(q).log_prob(z).sum().backward()
    assert prior.u.grad.abs().sum() > 0
    assert q.encoder.weight.grad.abs().sum() > 0


def test_the_vampprior_s_pseudo_inputs_are_images():
    prior, seen = VampPrior(2, SHAPE, 4, 0.5), []
    prior.u.data[0], prior.u.data[1] = -3.0, 3.0
    q = Q()
    prior(lambda u: seen.append(u) or q(u))
    assert seen[0].min() >= 0
    assert seen[0].max() <= 1
    assert seen[0].shape == (4, *SHAPE)
    assert VampPrior(2, SHAPE, 500, 0.05).u.mean().item() == pytest.approx(0.05, abs=0.002)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("D", [2, 5])
def test_a_coupling_is_undone_and_scored(D, backwards):
    flow = Affine(disturbed(Coupling(D, 8, backwards)))
    x = torch.randn(D, dtype=torch.float32)
    y = flow(x)
    assert not torch.allclose(x, y)
    torch.testing.assert_close(Affine(flow.coupling).inv(y), x)
    jacobian = torch.autograd.functional.jacobian(Affine(flow.coupling), x)
    torch.testing.assert_close(flow.log_abs_det_jacobian(x, y), jacobian.slogdet().logabsdet)


def test_the_steps_of_a_flow_take_turns():
    flow = disturbed(Flow(4, SHAPE, 2, 8))(Q())
    jacobian = torch.autograd.functional.jacobian(lambda z: flow.transforms[1](flow.transforms[0](z)), torch.randn(4))
    for row, unit in zip(jacobian, torch.eye(4), strict=True):
        assert not torch.allclose(row, unit)


def test_the_gradient_of_a_flow_s_density_is_that_of_its_jacobian():
    coupling, z = disturbed(Coupling(3, 8, False)), torch.randn(3)
    flow = Affine(coupling)
    found = torch.autograd.grad(flow.log_abs_det_jacobian(flow.inv(z), z), coupling.parameters())
    jacobian = torch.autograd.functional.jacobian(lambda z: Affine(coupling)._inverse(z), z, create_graph=True)
    expected = torch.autograd.grad(-jacobian.slogdet().logabsdet, coupling.parameters(), materialize_grads=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_flow_begins_as_a_standard_normal():
    z = torch.randn(5, 4)
    exact = MultivariateNormal(torch.zeros(4), torch.eye(4)).log_prob(z)
    torch.testing.assert_close(Flow(4, SHAPE, 3, 8)(Q()).log_prob(z), exact)


def test_a_flow_needs_two_dimensions():
    with pytest.raises(UserError, match=r"prior=flow latent_dim=1: expected a latent_dim of 2 or more"):
        Flow(1, SHAPE, 2, 8)


def test_the_second_layer_s_proposal_learns_through_what_it_draws():
    """The slope of the mean of log p(z1, z2) - log q(z2|z1) in q's offset, in closed form for linear layers."""
    torch.manual_seed(0)
    prior = TwoLayers(1, SHAPE, 1, [], "identity")
    down, up = prior.down[0], prior.up[0]
    down.weight.data, down.bias.data = torch.tensor([[1.3], [0.0]]), torch.tensor([0.2, -0.4])
    up.weight.data, up.bias.data = torch.tensor([[0.5], [0.0]]), torch.tensor([0.7, -1.0])
    z1 = torch.tensor([0.9])
    prior(Q()).log_prob(z1.expand(400_000, 1)).mean().backward()
    mean, slope, variance = 0.5 * 0.9 + 0.7, 1.3, math.exp(-0.4)
    towards_z1 = slope * (0.9 - slope * mean - 0.2) / variance
    assert up.bias.grad[0].item() == pytest.approx(towards_z1 - mean, abs=0.02)
    curvature = slope**2 / variance + 1
    assert up.bias.grad[1].item() == pytest.approx((1 - curvature * math.exp(-1.0)) / 2, abs=0.02)


def test_two_layers_are_right_in_the_mean():
    """With linear layers, p(z1) is a Gaussian that is known."""
    prior = TwoLayers(2, SHAPE, 3, [4], "identity")
    disturbed(prior, 0.2)
    down = prior.down
    with torch.no_grad():
        down[-1].weight[2:] = 0  # the variance of p(z1|z2) is the same everywhere
        A = (down[-1].weight @ down[0].weight)[:2]
        offset = down(torch.zeros(3))
        covariance = A @ A.T + offset[2:].exp().diag()
        z1 = torch.randn(4, 2)
        estimates = prior(Q()).log_prob(z1.expand(200_000, 4, 2))
    exact = MultivariateNormal(offset[:2], covariance).log_prob(z1)
    torch.testing.assert_close(estimates.logsumexp(0) - math.log(200_000), exact, atol=0.02, rtol=0)
    assert (estimates.mean(0) < exact).all()


def test_the_kl_to_the_standard_normal_is_torch_s():
    mean, log_var = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    q = Independent(Normal(mean, (log_var / 2).exp()), 1)
    p = Independent(Normal(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)), 1)
    found = kl_divergence(DiagonalNormal(mean, log_var), StandardNormal(3, SHAPE)(None))
    torch.testing.assert_close(found, kl_divergence(q, p))
