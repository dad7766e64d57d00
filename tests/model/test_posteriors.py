"""Posteriors, against the densities of torch.distributions and Jacobians by automatic differentiation."""

import math

import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Categorical,
    Gumbel,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
    SigmoidTransform,
    StudentT,
    TransformedDistribution,
    Uniform,
    kl_divergence,
)
from torch.nn.functional import softplus

from vae.errors import UserError
from vae.model.flows import MADE, GatedAutoregressive
from vae.model.posteriors import IAF, MAX_LOG_VAR, DiagonalGaussian, Point, soft_clamp
from vae.model.priors import VampPrior
from vae.model.vae import Terms, kl_per_group, kl_per_unit, low_variance_log_q


def test_diagonal_gaussian_matches_torch():
    h = torch.randn(5, 6)
    q = DiagonalGaussian(3)(h)
    z = torch.randn(4, 5, 3)
    exact = Independent(Normal(h[:, :3].double(), (h[:, 3:].double() / 2).exp()), 1)
    torch.testing.assert_close(q.log_prob(z).double(), exact.log_prob(z.double()), atol=1e-4, rtol=1e-5)
    assert torch.equal(q.mean, h[:, :3])


def test_soft_clamp_is_the_identity_within_its_bounds():
    log_var = torch.linspace(-MAX_LOG_VAR, MAX_LOG_VAR, 4001)[1:-1].requires_grad_()
    clamped = soft_clamp(log_var)
    assert torch.equal(clamped, log_var)
    clamped.sum().backward()
    assert torch.equal(log_var.grad, torch.ones_like(log_var))


def test_log_variances_are_clamped():
    q = DiagonalGaussian(1)(torch.tensor([[0.0, 200.0], [0.0, -200.0], [0.0, 1.0]]))
    expected = torch.tensor([[(10 + math.log(191)) / 2], [-(10 + math.log(191)) / 2], [0.5]]).exp()
    torch.testing.assert_close(q.base_dist.stddev, expected)


def test_soft_clamp_is_finite_and_has_gradients_beyond_its_bounds():
    log_var = torch.tensor([-1e30, -200.0, 200.0, 1e30], requires_grad=True)
    clamped = soft_clamp(log_var)
    assert (clamped.diff() > 0).all()
    assert clamped.abs().max() < 80
    assert clamped.exp().isfinite().all()
    clamped.sum().backward()
    assert (log_var.grad > 0).all()
    close = torch.tensor([MAX_LOG_VAR - 1e-3, MAX_LOG_VAR + 1e-3])
    torch.testing.assert_close(soft_clamp(close), close, atol=1e-5, rtol=0)


def perturbed(module, by=0.3):
    """Return the module with noise added to its weights, as if trained, in double precision."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn_like(parameter)
    return module.double()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("D", [1, 2, 5])
def test_autoregressive_map_has_a_triangular_jacobian_and_an_inverse(D, reverse):
    made, context = perturbed(MADE(D, 16, 3, reverse)), torch.randn(3).double()
    x = torch.randn(D).double()
    flow = GatedAutoregressive(made, context)
    y = flow(x)
    jacobian = torch.autograd.functional.jacobian(GatedAutoregressive(made, context), x)
    zeros = jacobian.tril(-1) if reverse else jacobian.triu(1)
    assert (zeros == 0).all()
    if D > 1:
        assert ((jacobian - jacobian.diag().diag()) != 0).sum() == D * (D - 1) / 2
    torch.testing.assert_close(flow.log_abs_det_jacobian(x, y), jacobian.slogdet().logabsdet)
    uncached = GatedAutoregressive(made, context)
    inverse = uncached.inv(y)
    torch.testing.assert_close(inverse, x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        uncached.log_abs_det_jacobian(inverse, y), jacobian.slogdet().logabsdet, atol=1e-4, rtol=0
    )


def test_iaf_steps_alternate_their_order_and_use_the_context():
    posterior = perturbed(IAF(3, steps=2, hidden_size=16, context=4))
    h = torch.randn(1, posterior.outputs).double()

    def flow(z, context):
        for made in posterior.steps:
            z = GatedAutoregressive(made, context)(z)
        return z

    by_z, by_context = torch.autograd.functional.jacobian(flow, (torch.randn(3).double(), h[0, 6:]))
    assert (by_z.tril(-1) != 0).any()
    assert (by_z.triu(1) != 0).any()
    first = torch.autograd.functional.jacobian(
        lambda context: GatedAutoregressive(posterior.steps[0], context)(torch.randn(3).double()), h[0, 6:]
    )
    assert (first != 0).all()
    assert (by_context != 0).all()


def test_gradient_of_the_log_determinant_of_an_autoregressive_map():
    made, context, x = perturbed(MADE(3, 16, 2, False)), torch.randn(2).double(), torch.randn(3).double()
    flow = GatedAutoregressive(made, context)
    log_det = flow.log_abs_det_jacobian(x, flow(x))
    gradient = torch.autograd.grad(log_det, made.parameters(), allow_unused=True)
    uncached = GatedAutoregressive(made, context)
    jacobian = torch.autograd.functional.jacobian(lambda x: uncached._call(x), x, create_graph=True)
    expected = torch.autograd.grad(jacobian.slogdet().logabsdet, made.parameters(), allow_unused=True)
    for a, b in zip(gradient, expected, strict=True):
        torch.testing.assert_close(a if a is not None else torch.zeros_like(b), b)


def test_iaf_log_prob_is_the_same_with_and_without_the_cache():
    posterior = perturbed(IAF(3, steps=2, hidden_size=16, context=4))
    h = torch.randn(5, posterior.outputs).double()
    q = posterior(h)
    z = q.rsample((7,))
    torch.testing.assert_close(q.log_prob(z), posterior(h).log_prob(z.clone()), atol=1e-3, rtol=1e-3)


def test_iaf_integrates_to_one_and_has_its_mean():
    posterior = perturbed(IAF(2, steps=2, hidden_size=16, context=4))
    q = posterior(torch.randn(1, posterior.outputs).double())
    side = torch.linspace(-12, 12, 601)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).flatten(0, 1).unsqueeze(1).double()
    with torch.no_grad():
        mass = q.log_prob(grid).double().exp() * (24 / 600) ** 2
        mean = torch.stack([q.mean for _ in range(100)]).mean(0)
    assert mass.sum().item() == pytest.approx(1, abs=5e-3)
    torch.testing.assert_close(mean.double(), mass.T @ grid[:, 0].double(), atol=0.05, rtol=0.02)


def test_iaf_depends_on_the_context_of_each_image():
    posterior = perturbed(IAF(3, steps=1, hidden_size=16, context=4))
    h = torch.zeros(2, posterior.outputs).double()
    h[1, 6:] = 1.0  # the same Gaussian with another context
    torch.manual_seed(0)
    first = posterior(h).rsample()
    torch.manual_seed(0)
    h[1, 6:] = 0.0
    second = posterior(h).rsample()
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])


def test_point_posterior_has_samples_and_no_density():
    q = Point(3)(torch.arange(6.0).view(2, 3))
    assert torch.equal(q.rsample((4,)), torch.arange(6.0).view(2, 3).expand(4, 2, 3))
    assert torch.equal(q.mean, torch.arange(6.0).view(2, 3))
    with pytest.raises(UserError, match="objective=autoencoder"):
        q.log_prob(torch.zeros(2, 3))


def test_iaf_kl_uses_the_closed_form_of_its_base(monkeypatch):
    posterior = perturbed(IAF(3, steps=2, hidden_size=16, context=4))
    h = torch.randn(5, posterior.outputs).double()
    q, p = posterior(h), Independent(Normal(torch.zeros(3).double(), 1.0), 1)
    z = q.rsample((200_000,))
    difference = (low_variance_log_q(q, z) - q.log_prob(z)).mean(0)
    torch.testing.assert_close(difference, torch.zeros(5).double(), atol=0.03, rtol=0)
    monkeypatch.setattr(GatedAutoregressive, "GATE_BIAS", 100.0)  # the identity: then the KL has no noise
    q = posterior(h)
    z = q.rsample()
    exact = kl_divergence(Independent(Normal(h[:, :3], (h[:, 3:6] / 2).exp()), 1), p)
    torch.testing.assert_close(low_variance_log_q(q, z) - p.log_prob(z), exact)


def test_a_transformed_posterior_has_its_own_density():
    """A logistic distribution, as the transform of a uniform one: torch cannot make it again from its parameters."""
    loc, scale = torch.randn(3, 2), torch.rand(3, 2) + 0.2
    base = Uniform(torch.zeros(3, 2), 1.0)
    q = Independent(TransformedDistribution(base, [SigmoidTransform().inv, AffineTransform(loc, scale)]), 1)
    z = q.rsample((4,))
    u = (z - loc) / scale
    torch.testing.assert_close(low_variance_log_q(q, z), (-u - 2 * softplus(-u) - scale.log()).sum(-1))
    assert kl_per_group(q, Independent(Normal(torch.zeros(2), 1.0), 1)) is None


@pytest.mark.parametrize("family", [Laplace, Gumbel])
def test_a_posterior_that_is_not_gaussian_has_the_kl_of_its_own_density(family):
    """The mixture has no closed form; StudentT has none for a unit, which free bits then take together."""
    torch.manual_seed(0)
    loc, scale = torch.randn(3, 2, requires_grad=True), (torch.rand(3, 2) + 0.2).requires_grad_()
    q_z = Independent(family(loc, scale), 1)
    z = q_z.rsample((50_000,))
    normals = Normal(torch.tensor([[-1.0, 0], [2, 1]]), torch.tensor([[0.5, 1], [1, 2]]))
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Independent(normals, 1))
    for p_z in (mixture, Independent(StudentT(torch.full((2,), 4.0)), 1)):
        expected = q_z.log_prob(z) - p_z.log_prob(z)
        terms = Terms(z, z, q_z, p_z, Independent(Normal(z[..., 0], 1.0), 0))
        torch.testing.assert_close(terms.kl, expected.mean(0))
        found, exact = (torch.autograd.grad(kl.mean(), [loc, scale], retain_graph=True) for kl in (terms.kl, expected))
        torch.testing.assert_close(found, exact, atol=0.01, rtol=0.02)
        assert kl_per_unit(q_z, p_z) is None
    assert kl_per_unit(q_z, Independent(Normal(torch.zeros(2), 1.0), 1)).shape == (3, 2)


def test_the_vampprior_refuses_a_posterior_that_is_not_gaussian():
    prior = VampPrior(2, (1, 1, 2), 3, 0.5)
    with pytest.raises(UserError, match="expected posterior=diagonal_gaussian"):
        prior(lambda x: Independent(Laplace(x.flatten(1), 1.0), 1))
