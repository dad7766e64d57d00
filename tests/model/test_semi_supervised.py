"""M2 against brute force over the labels of a linear-Gaussian model whose log p(x|y) is known."""

import pytest
import torch
from config_choices import CHOICES
from conftest import compose_config
from linear_gaussian import LABELS, NOISE, PIXELS, D, linear_gaussian_of_labels
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, kl_divergence
from torch.testing import assert_close

from datamodules.labels import balanced_rows, one_hot
from datamodules.loaders import EpochLoader
from vae.model.semi_supervised import M2
from vae.training.build import build

MISSING = torch.zeros(1, LABELS)


class Logits(nn.Module):
    """A classifier whose output is known."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits[: len(x)]


def model(n):
    """Return a VAE with exact q(z|x, y) and random q(y|x), n images, their labels, and log p(x|y) for all labels."""
    vae, x, y, _ = linear_gaussian_of_labels(n)
    every = [one_hot(torch.full((n,), label), LABELS) for label in range(LABELS)]
    with torch.no_grad():
        log_px_y = torch.stack([marginal(vae, label).log_prob(x.flatten(1)) for label in every], 1)
    vae.classifier = Logits(2 * torch.randn(n, LABELS))
    return vae, x, y, log_px_y


def marginal(vae, y):
    """Return p(x|y) of the linear model, from its decoder's weights."""
    W, b = vae.decoder.decoder.weight.split([D, LABELS], 1)
    return MultivariateNormal(y @ b.T, W @ W.T + NOISE**2 * torch.eye(PIXELS))


@torch.no_grad()
def test_the_bound_of_an_image_without_label_is_log_px_less_the_kl_of_q_y_x():
    vae, x, _, log_px_y = model(7)
    p_y = Categorical(torch.ones(LABELS))
    components = marginal(vae, torch.eye(LABELS))
    log_px = MixtureSameFamily(p_y, components).log_prob(x.flatten(1))
    p_y_x = Categorical(logits=log_px_y)
    objective = M2(2, alpha=0.1, labelled=1)
    for logits, expected in (
        (vae.classifier.logits, log_px - kl_divergence(Categorical(logits=vae.classifier.logits), p_y_x)),
        (log_px_y, log_px),
    ):
        vae.classifier = Logits(logits)
        found = objective.terms(vae.given(MISSING.expand(7, -1)), x, 100).log_px
        assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_logged_terms_are_given_the_label_or_their_means_over_q_y_x():
    vae, x, y, log_px_y = model(6)
    y[:3] = 0
    terms = M2(1, 0.1, 3).terms(vae.given(y), x, 30)
    q = Categorical(logits=vae.classifier.logits)
    for i in range(6):
        expected = (q.probs[i] * log_px_y[i]).sum() if i < 3 else log_px_y[i, y[i].argmax()]
        assert_close(terms.elbo[i], expected, atol=1e-3, rtol=1e-4)
    assert_close(terms.log_likelihood - terms.kl, terms.elbo, atol=1e-3, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("labelled", [4, 60])
def test_batches_with_repeated_labelled_images_have_the_mean_of_the_objective_of_the_paper(labelled):
    """J / N of eq. 9, with alpha N in the place of alpha, summed by hand over the labels and over all images."""
    n, alpha = 60, 3.0
    vae, x, y, log_px_y = model(n)
    known = torch.arange(n) < labelled
    log_q = Categorical(logits=vae.classifier.logits).logits
    total = 0.0
    for i in range(n):
        label = y[i].argmax()
        if known[i]:
            total += log_px_y[i, label] - torch.tensor(LABELS).log() + alpha * n / labelled * log_q[i, label]
        else:
            log_pxy = [log_px_y[i, k] - torch.tensor(LABELS).log() for k in range(LABELS)]
            total += sum(log_q[i, k].exp() * (log_pxy[k] - log_q[i, k]) for k in range(LABELS))
    labels = torch.where(known, y.argmax(1), -1)
    objective = M2(1, alpha, labelled)
    values = objective(objective.terms(vae.given(one_hot(labels, LABELS)), x, n), 0.0)
    wrong = objective.terms(vae.given(one_hot(labels, LABELS)), x, n).error
    rows = torch.arange(float(n)).view(n, 1, 1, 1)
    found = [
        torch.stack([values, wrong])[:, batch.flatten().long()].mean(1)
        for epoch in range(400)
        for chunk in EpochLoader(rows, 20, lambda pixels, _: pixels, 0, lambda e=epoch: e, labels=labels)
        for batch, _ in chunk
    ]
    objective_mean, error = torch.stack(found).mean(0).tolist()
    assert objective_mean == pytest.approx(total.item() / n, rel=0.01)
    assert error == pytest.approx((log_q.argmax(1) != y.argmax(1))[:labelled].float().mean().item(), rel=0.01)


@torch.no_grad()
def test_validation_uses_labels_for_the_metrics_only():
    vae, x, y, _ = model(6)
    objective = M2(1, 5.0, 3)
    vae.eval()
    values = [objective(objective.terms(vae.given(labels), x, 30), 0.0) for labels in (y, y.roll(1, 1), 0 * y)]
    assert_close(values[0], values[1])
    assert_close(values[0], values[2])
    terms = objective.terms(vae.given(y), x, 30)
    assert terms.error.tolist() == (vae.classifier.logits.argmax(1) != y.argmax(1)).float().tolist()
    assert not torch.allclose(terms.elbo, objective.terms(vae.given(y.roll(1, 1)), x, 30).elbo)


@pytest.mark.parametrize("seed", range(3))
def test_labelled_images_are_balanced_and_chosen_by_the_seed(seed):
    labels = torch.tensor([5] * 30 + [7] * 3 + [9] * 20)
    rows = balanced_rows(labels, 12, torch.Generator().manual_seed(seed))
    assert len(set(rows.tolist())) == 12
    assert labels[rows].bincount()[[5, 7, 9]].tolist() in ([5, 3, 4], [4, 3, 5])  # all three of label 7
    assert balanced_rows(labels, 9, torch.Generator().manual_seed(seed)).tolist() == rows[:9].tolist()
    assert labels[rows[:9]].bincount()[[5, 7, 9]].tolist() == [3, 3, 3]
    assert rows.tolist() != balanced_rows(labels, 12, torch.Generator().manual_seed(seed + 1)).tolist()


def test_every_tenth_image_of_an_epoch_has_a_label_and_they_take_turns():
    labels = torch.full((200,), -1)
    labels[[3, 50, 120, 199]] = torch.arange(4)
    pixels = torch.arange(200.0).view(200, 1, 1, 1)
    epoch = [
        (int(x), int(y))
        for chunk in EpochLoader(pixels, 10, lambda pixels, _: pixels, 0, lambda: 5, labels=labels)
        for batch in chunk
        for x, y in zip(*batch, strict=True)
    ]
    assert all(labels[x] == y for x, y in epoch)
    assert sorted(y for _, y in epoch[::10]) == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert sum(y >= 0 for i, (_, y) in enumerate(epoch) if i % 10) <= 4  # by chance
    assert len({x for x, y in epoch if y < 0}) == sum(y < 0 for _, y in epoch)


@pytest.mark.parametrize("line", [line for line in CHOICES if not any(part in line for part in ("objective", "/"))])
def test_every_likelihood_prior_posterior_and_architecture_trains_with_it(line):
    cfg = compose_config(*line.split(), "objective=m2", "objective.labelled=3", "hidden_size=6", "latent_dim=3")
    torch.manual_seed(0)
    module = build(cfg, (3, 6, 4), LABELS, 30)
    x = torch.rand(6, 3, 6, 4).round()
    y = one_hot(torch.tensor([0, 2, -1, -1, -1, -1]), LABELS)
    metrics = module.compute_metrics(x, 1.0, y)
    metrics[-1].mean().backward()
    assert metrics.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters() if parameter.requires_grad)
    assert all(parameter.grad.abs().sum() > 0 for parameter in list(module.vae.classifier.parameters())[-2:])
