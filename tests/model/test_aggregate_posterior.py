"""Objectives with a term of q(z), against closed forms, mixtures of torch.distributions, and double loops."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from test_objectives import small_vae
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from vae.errors import UserError
from vae.model import aggregate_posterior, priors
from vae.model.aggregate_posterior import DIP, BetaTC, CovarianceTerms, DecomposedTerms, Info, MMDTerms
from vae.model.posteriors import IAF, DiagonalNormal
from vae.model.priors import UnitNormal
from vae.training.schedules import Constant
from vae.training.schedules import Linear as Warmup

N, D = 6, 3


def codes(n=N, d=D, K=2, seed=0):
    """Return means, log-variances and noise of n Gaussians q(z|x), (n, d), (n, d), (K, n, d), in float64."""
    rng = torch.Generator().manual_seed(seed)
    mean, log_var, noise = (torch.randn(*shape, generator=rng).double() for shape in ((n, d), (n, d), (K, n, d)))
    return 2 * mean, log_var - 1, noise


def make_terms(kind, mean, log_var, noise, **options):
    """Return terms of this kind without a decoder, of the samples mean + sigma noise."""
    z = mean + (log_var / 2).exp() * noise
    return kind(None, z, DiagonalNormal(mean, log_var), UnitNormal(torch.zeros_like(mean[0])), None, **options)


def log_mixture(mean, log_var, z):
    """Return log 1/N sum_n q(z|x_n) and sum_d log 1/N sum_n q(z_d|x_n) of samples z, (K, B, D), by torch."""
    normal = Normal(mean, (log_var / 2).exp())
    joint = MixtureSameFamily(Categorical(torch.ones(len(mean))), Independent(normal, 1))
    per_dimension = Normal(normal.loc.T, normal.scale.T)  # (D, N): a batch of D mixtures
    marginals = MixtureSameFamily(Categorical(torch.ones(mean.T.shape)), per_dimension)
    return joint.log_prob(z), marginals.log_prob(z).sum(-1)


def test_a_batch_of_all_images_gives_the_exact_density():
    terms = make_terms(DecomposedTerms, *codes(), N=N)
    for log_q, exact in zip(terms.log_qz, log_mixture(*codes()[:2], terms.z), strict=True):
        torch.testing.assert_close(log_q.T, exact, atol=1e-6, rtol=0)


def test_the_density_is_unbiased_over_batches():
    """The mean over all batches of three that contain an image is the density of the mixture of all six."""
    mean, log_var, noise = codes()
    z = mean + (log_var / 2).exp() * noise
    for part, exact in enumerate(log_mixture(mean[:, :1], log_var[:, :1], z[..., :1])):
        found = [[] for _ in range(N)]
        for rows in map(list, combinations(range(N), 3)):
            terms = make_terms(DecomposedTerms, mean[rows, :1], log_var[rows, :1], noise[:, rows, :1], N=N)
            for row, log_q in zip(rows, terms.log_qz[part], strict=True):
                found[row].append(log_q.exp())
        means = torch.stack([torch.stack(values).mean(0) for values in found], 1)
        torch.testing.assert_close(means, exact.exp(), atol=1e-6, rtol=0)


def test_the_parts_sum_to_the_kl():
    terms = make_terms(DecomposedTerms, *codes(), N=50)
    total = terms.mutual_information + terms.total_correlation + terms.dimension_wise_kl
    torch.testing.assert_close(total, (terms.log_qz_x - terms.log_pz).mean())
    mean, log_var, noise = codes(n=400, K=50, seed=1)
    terms = make_terms(DecomposedTerms, mean, log_var, noise, N=400)
    total = terms.mutual_information + terms.total_correlation + terms.dimension_wise_kl
    closed_form = (mean**2 + log_var.exp() - 1 - log_var).sum(1).mean() / 2
    assert total.item() == pytest.approx(closed_form.item(), abs=0.05)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_a_gaussian_aggregate_posterior_has_its_closed_form(correlation):
    """z = m + 0.3 e with m ~ N(0, S): q(z) = N(0, S + 0.09 I)."""
    n, sigma = 2500, 0.3
    rng = torch.Generator().manual_seed(0)
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]])
    mean = torch.randn(n, 2, generator=rng) @ torch.linalg.cholesky(covariance).T
    log_var = torch.full_like(mean, 2 * math.log(sigma))
    terms = make_terms(DecomposedTerms, mean, log_var, torch.randn(1, n, 2, generator=rng), N=n)
    total = covariance + sigma**2 * torch.eye(2)
    correlation_of_z = (total[0, 1] / total[0, 0]).item()
    assert terms.total_correlation.item() == pytest.approx(-math.log(1 - correlation_of_z**2) / 2, abs=0.05)
    information = (total.logdet() / 2 - 2 * math.log(sigma)).item()
    assert terms.mutual_information.item() == pytest.approx(information, abs=0.1)


def test_beta_tc_multiplies_the_total_correlation():
    vae, x = small_vae()
    for progress, beta in ((0.0, 0.0), (0.05, 1.0), (0.2, 4.0), (0.9, 4.0)):
        objective = BetaTC(2, beta=4.0, schedule=Warmup(0.2))
        terms = objective.terms(vae, x, 100)
        value = objective(terms, objective.weight(progress))
        cost = terms.kl.mean() + (beta - 1) * terms.total_correlation
        torch.testing.assert_close(value.mean(), terms.log_px_z.mean() - cost)


def test_beta_tc_needs_a_gaussian_posterior():
    vae, x = small_vae(lambda d: IAF(d, 1, 8, 2))
    with pytest.raises(UserError, match=r"objective=beta_tc.*posterior=diagonal_gaussian"):
        BetaTC(1, 2.0, Constant())(BetaTC(1, 2.0, Constant()).terms(vae, x, 8), 1.0)


def squared_mmd(z, of_prior):
    """Return the unbiased estimate of the squared MMD by loops over pairs of points, (B, D) and (B, D)."""

    def kernel(a, b):
        return math.exp(-sum((i - j) ** 2 for i, j in zip(a, b, strict=True)) / len(a) ** 2)

    n = len(z)
    within = [sum(kernel(p[i], p[j]) for i in range(n) for j in range(n) if i != j) for p in (z, of_prior)]
    between = sum(kernel(a, b) for a in z for b in of_prior)
    return sum(within) / (n * (n - 1)) - 2 * between / n**2


def test_mmd_is_that_of_a_double_loop():
    terms = make_terms(MMDTerms, *codes(K=2))
    torch.manual_seed(3)
    of_prior = terms.p_z.sample((N,)).tolist()
    torch.manual_seed(3)
    expected = np.mean([squared_mmd(z, of_prior) for z in terms.z.tolist()])
    assert terms.mmd.item() == pytest.approx(expected, abs=1e-6)


def test_mmd_is_zero_in_the_mean_only_if_the_aggregate_posterior_is_the_prior():
    torch.manual_seed(0)
    noise = torch.zeros(1, 500, 2)
    same, other = (make_terms(MMDTerms, s * torch.randn(500, 2), torch.full((500, 2), -9.0), noise) for s in (1, 2))
    assert abs(same.mmd.item()) < 0.005
    assert other.mmd.item() > 0.05


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_info_weighs_the_kl_and_the_mmd(alpha):
    vae, x = small_vae()
    objective = Info(3, alpha=alpha, lambda_=50.0)
    terms = objective.terms(vae, x, 8)
    expected = terms.log_px_z.mean(0) - (1 - alpha) * terms.kl - (alpha + 49) * terms.mmd
    torch.testing.assert_close(objective(terms, 0.0), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_info_fits_a_learned_prior_as_the_elbo_does(alpha):
    vae, x = small_vae(prior=lambda d, shape: priors.Mixture(d, shape, 2))
    objective = Info(3, alpha=alpha, lambda_=50.0)
    terms = objective.terms(vae, x, 8)
    parameters = list(vae.prior.parameters())
    found = torch.autograd.grad(objective(terms, 0.0).mean(), parameters, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(terms.elbo.mean(), parameters))


def test_dip_penalises_the_covariance_of_the_means():
    vae, x = small_vae()
    vae.encoder[1].weight.data *= 5
    objective = DIP(2, lambda_od=3.0, lambda_d=5.0)
    terms = objective.terms(vae, x, 8)
    covariance = np.cov(vae.encoder(x).chunk(2, -1)[0].detach().numpy().T, bias=True)
    off_diagonal = sum(covariance[i, j] ** 2 for i in range(2) for j in range(2) if i != j)
    diagonal = sum((covariance[i, i] - 1) ** 2 for i in range(2))
    assert min(off_diagonal, diagonal) > 0.1
    assert terms.off_diagonal_covariance.item() == pytest.approx(off_diagonal, rel=1e-4)
    assert terms.diagonal_covariance.item() == pytest.approx(diagonal, rel=1e-4)
    cost = terms.kl.mean().item() + 3 * off_diagonal + 5 * diagonal
    assert objective(terms, 0.0).mean().item() == pytest.approx(terms.log_px_z.mean().item() - cost, rel=1e-4)


TERMS = [
    (DecomposedTerms, "total_correlation", {"N": 50}),
    (DecomposedTerms, "mutual_information", {"N": 50}),
    (MMDTerms, "mmd", {}),
    (CovarianceTerms, "off_diagonal_covariance", {}),
    (CovarianceTerms, "diagonal_covariance", {}),
]


@pytest.mark.parametrize(("kind", "name", "options"), TERMS)
def test_gradients_are_those_of_finite_differences(kind, name, options):
    mean, log_var, noise = codes()

    def value(mean, log_var):
        torch.manual_seed(0)
        return getattr(make_terms(kind, mean, log_var, noise, **options), name)

    assert torch.autograd.gradcheck(value, (mean.requires_grad_(), log_var.requires_grad_()))


@pytest.mark.parametrize(("kind", "name", "options"), TERMS)
def test_two_processes_give_the_value_and_gradient_of_one(kind, name, options, monkeypatch):
    """The processes have 4 and 2 of the 6 images. Each gets the rows of the other, which have no gradient."""
    mean, log_var, noise = codes()
    parameters = mean.requires_grad_(), log_var.requires_grad_()
    rows_of_all = []
    monkeypatch.setattr(aggregate_posterior, "whole_batch", lambda rows: rows_of_all.append(rows) or rows)
    value = getattr(make_terms(kind, mean, log_var, noise, **options), name)
    expected = torch.autograd.grad(value, parameters, materialize_grads=True)
    found = [torch.zeros_like(gradient) for gradient in expected]
    total = 0.0
    for rows in (slice(0, 4), slice(4, 6)):

        def whole_batch(ours, rows=rows):
            batch = rows_of_all[0].detach().clone()
            batch[rows] += (ours - ours.detach()) * (N / len(ours))
            return batch

        monkeypatch.setattr(aggregate_posterior, "whole_batch", whole_batch)
        part = getattr(make_terms(kind, mean[rows], log_var[rows], noise[:, rows], **options), name)
        share = len(mean[rows]) / N
        total += share * part
        gradients = torch.autograd.grad(share * part, parameters, materialize_grads=True)
        found = [sum_ + gradient for sum_, gradient in zip(found, gradients, strict=True)]
    torch.testing.assert_close(total, value)
    torch.testing.assert_close(found, list(expected))


@pytest.mark.parametrize("objective", [BetaTC(2, 4.0, Constant()), Info(2, 0.5, 9.0), DIP(2, 1.0, 1.0)])
@pytest.mark.parametrize("training_images", [1, 8])
def test_a_batch_of_one_image_has_a_finite_gradient(objective, training_images):
    vae, x = small_vae()
    value = objective(objective.terms(vae, x[:1], training_images), objective.weight(1.0))
    value.sum().backward()
    assert value.isfinite().all()
    assert all(p.grad.isfinite().all() for p in vae.parameters())
