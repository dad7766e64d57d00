"""Priors, against the densities of torch.distributions, numerical integrals and automatic differentiation."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from vae.errors import UserError
from vae.model.flows import AffineCoupling, Coupling
from vae.model.posteriors import DiagonalGaussian, DiagonalNormal
from vae.model.priors import DiagonalGaussian as GaussianPrior
from vae.model.priors import DiagonalMixture, Flow, Mixture, StandardNormal, TwoLayers, VampPrior

SHAPE = (1, 2, 3)


def perturbed(module, by=0.3):
    """Return the module with noise added to its weights, as if trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn_like(parameter)
    return module


class Q(torch.nn.Module):
    """q(z|x) with two latent dimensions and a linear encoder."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Linear(6, 4)
        self.posterior = DiagonalGaussian(2)

    def forward(self, x):
        return self.posterior(self.encoder(x.flatten(1)))


PRIORS = {
    "standard_normal": lambda: StandardNormal(2, SHAPE),
    "diagonal_gaussian": lambda: perturbed(GaussianPrior(2, SHAPE)),
    "mixture": lambda: perturbed(Mixture(2, SHAPE, 5)),
    "vampprior": lambda: perturbed(VampPrior(2, SHAPE, 4, 0.5)),
    "flow": lambda: perturbed(Flow(2, SHAPE, 3, 16), 0.1),
    "two_layers": lambda: perturbed(TwoLayers(2, SHAPE, 3, [8, 6], "tanh"), 0.1),
}


@pytest.mark.parametrize("name", PRIORS)
def test_priors_integrate_to_one(name):
    p_z = PRIORS[name]()(Q())
    side = torch.linspace(-9, 9, 451)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    with torch.no_grad():
        mass = p_z.log_prob(grid).double().exp().sum().item() * (18 / 450) ** 2
    assert mass == pytest.approx(1, abs=0.02 if name == "two_layers" else 2e-3)


@pytest.mark.parametrize("name", PRIORS)
def test_samples_have_the_moments_of_the_density(name):
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


def test_mixture_matches_torch():
    torch.manual_seed(0)
    log_pi, mean, scale = torch.randn(7).log_softmax(0), torch.randn(7, 5), torch.rand(7, 5) + 0.05
    components = Independent(Normal(mean.double(), scale.double()), 1)
    exact = MixtureSameFamily(Categorical(logits=log_pi.double()), components)
    z = 2 * torch.randn(3, 4, 5)
    log_prob = DiagonalMixture(log_pi, mean, scale).log_prob(z)
    torch.testing.assert_close(log_prob.double(), exact.log_prob(z.double()), atol=2e-3, rtol=1e-5)


def test_vampprior_is_the_mean_of_q_at_the_pseudo_inputs():
    q, prior = Q(), VampPrior(2, SHAPE, 4, 0.5)
    z = torch.randn(6, 2)
    for _ in range(2):
        densities = torch.stack([q(u[None].clamp(0, 1)).log_prob(z) for u in prior.u])
        torch.testing.assert_close(prior(q).log_prob(z), densities.exp().mean(0).log())
        perturbed(q)
        perturbed(prior)
    prior(q).log_prob(z).sum().backward()
    assert prior.u.grad.abs().sum() > 0
    assert q.encoder.weight.grad.abs().sum() > 0


def test_pseudo_inputs_are_clamped_to_pixel_values():
    prior, inputs = VampPrior(2, SHAPE, 4, 0.5), []
    prior.u.data[0], prior.u.data[1] = -3.0, 3.0
    q = Q()
    prior(lambda u: inputs.append(u) or q(u))
    assert inputs[0].min() >= 0
    assert inputs[0].max() <= 1
    assert inputs[0].shape == (4, *SHAPE)
    assert VampPrior(2, SHAPE, 500, 0.05).u.mean().item() == pytest.approx(0.05, abs=0.002)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("D", [2, 5])
def test_coupling_has_an_inverse_and_a_log_determinant(D, reverse):
    flow = AffineCoupling(perturbed(Coupling(D, 8, reverse)))
    x = torch.randn(D, dtype=torch.float32)
    y = flow(x)
    assert not torch.allclose(x, y)
    torch.testing.assert_close(AffineCoupling(flow.coupling).inv(y), x)
    jacobian = torch.autograd.functional.jacobian(AffineCoupling(flow.coupling), x)
    torch.testing.assert_close(flow.log_abs_det_jacobian(x, y), jacobian.slogdet().logabsdet)


def test_flow_steps_alternate_the_halves():
    flow = perturbed(Flow(4, SHAPE, 2, 8))(Q())
    jacobian = torch.autograd.functional.jacobian(lambda z: flow.transforms[1](flow.transforms[0](z)), torch.randn(4))
    for row, unit in zip(jacobian, torch.eye(4), strict=True):
        assert not torch.allclose(row, unit)


def test_gradient_of_the_log_determinant_of_a_coupling():
    coupling, z = perturbed(Coupling(3, 8, False)), torch.randn(3)
    flow = AffineCoupling(coupling)
    gradient = torch.autograd.grad(flow.log_abs_det_jacobian(flow.inv(z), z), coupling.parameters())
    jacobian = torch.autograd.functional.jacobian(lambda z: AffineCoupling(coupling)._inverse(z), z, create_graph=True)
    expected = torch.autograd.grad(-jacobian.slogdet().logabsdet, coupling.parameters(), materialize_grads=True)
    for a, b in zip(gradient, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_untrained_flow_is_a_standard_normal():
    z = torch.randn(5, 4)
    exact = MultivariateNormal(torch.zeros(4), torch.eye(4)).log_prob(z)
    torch.testing.assert_close(Flow(4, SHAPE, 3, 8)(Q()).log_prob(z), exact)


def test_flow_needs_two_dimensions():
    with pytest.raises(UserError, match=r"prior=flow latent_dim=1: expected a latent_dim of 2 or more"):
        Flow(1, SHAPE, 2, 8)


def log_pz1_z2(z2, z1, down):
    """Return log p(z1|z2) of a `down` with one linear layer, by torch.distributions; z2 is (N,), z1 is (D,)."""
    outputs = z2.double()[:, None] * down.weight.detach().double()[:, 0] + down.bias.detach().double()
    mean, variance = outputs.tanh()[:, : len(z1)], 2 * outputs.sigmoid()[:, len(z1) :]
    return Normal(mean, variance.sqrt()).log_prob(z1.double()).sum(-1)


def test_two_layers_gradient_of_the_proposal():
    """The gradient of E[log p(z1, z2) - log q(z2|z1)] in the parameters of q, by quadrature."""
    torch.manual_seed(0)
    prior = TwoLayers(1, SHAPE, 1, [], "identity")
    down, up = prior.decoder[0], prior.encoder[0]
    down.weight.data, down.bias.data = torch.tensor([[1.3], [0.4]]), torch.tensor([0.2, -0.4])
    up.weight.data, up.bias.data = torch.tensor([[0.5], [0.0]]), torch.tensor([0.7, -1.0])
    z1 = torch.tensor([0.9])
    prior(Q()).log_prob(z1.expand(400_000, 1)).mean().backward()
    bias = up.bias.detach().double().requires_grad_()
    q_z2 = Normal(0.5 * 0.9 + bias[0], (bias[1] / 2).exp())
    eps = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    z2 = q_z2.mean + q_z2.stddev * eps
    weight = Normal(0.0, 1.0).log_prob(eps).exp() * (16 / 4000)
    bound = weight @ (log_pz1_z2(z2, z1, down) + Normal(0.0, 1.0).log_prob(z2)) + q_z2.entropy()
    bound.backward()
    torch.testing.assert_close(up.bias.grad.double(), bias.grad, atol=0.02, rtol=0)


def test_two_layers_estimate_is_unbiased():
    """If z2 has one unit, p(z1) is an integral over a line."""
    prior = perturbed(TwoLayers(2, SHAPE, 1, [], "identity"), 0.5)
    z1 = torch.randn(4, 2)
    with torch.no_grad():
        estimates = prior(Q()).log_prob(z1.expand(200_000, 4, 2))
    z2 = torch.linspace(-9, 9, 9001, dtype=torch.float64)
    joint = torch.stack([log_pz1_z2(z2, z, prior.decoder[0]) for z in z1]) + Normal(0.0, 1.0).log_prob(z2)
    exact = joint.logsumexp(-1) + math.log(18 / 9000)
    torch.testing.assert_close(estimates.logsumexp(0).double() - math.log(200_000), exact, atol=0.02, rtol=0)
    assert (estimates.mean(0) < exact).all()


def test_two_layers_bound_the_location_and_scale_of_z1():
    prior = perturbed(TwoLayers(3, SHAPE, 4, [8], "tanh"), 50.0)
    with torch.no_grad():
        p_z1 = prior(Q()).p_z1(torch.randn(1000, 4))
    assert p_z1.mean.abs().max() <= 1
    assert p_z1.variance.max() <= 2
    assert torch.isfinite(p_z1.log_prob(torch.zeros(3))).all()


def test_kl_to_a_gaussian_prior_matches_torch():
    mean, log_var = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    q = Independent(Normal(mean, (log_var / 2).exp()), 1)
    p = Independent(Normal(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)), 1)
    kl = kl_divergence(DiagonalNormal(mean, log_var), StandardNormal(3, SHAPE)(None))
    torch.testing.assert_close(kl, kl_divergence(q, p))
    prior = GaussianPrior(3, SHAPE).double()
    torch.testing.assert_close(kl_divergence(DiagonalNormal(mean, log_var), prior(None)), kl)  # before the training
    with torch.no_grad():
        prior.mean.copy_(torch.tensor([0.5, -1, 2]))
        prior.log_var.copy_(torch.tensor([4.0, 1, 0.25]).log())
    p = Independent(Normal(torch.tensor([0.5, -1, 2]).double(), torch.tensor([2.0, 1, 0.5]).double()), 1)
    torch.testing.assert_close(kl_divergence(DiagonalNormal(mean, log_var), prior(None)), kl_divergence(q, p))
