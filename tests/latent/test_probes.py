"""Clusters and probes of made-up features with known answers."""

import itertools

import numpy as np
import pytest

from vae.latent import probes


def blobs(n, distance, seed=0):
    """Draw n points around each of three centres at this distance, (3 n, 2), and their labels, in random order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(3), n))
    return distance * np.array([[0, 0], [1, 0], [0, 1]])[labels] + rng.normal(size=(3 * n, 2)), labels


def test_best_matching_is_the_best_of_all_permutations():
    rng = np.random.default_rng(0)
    for k in (3, 4, 5):  # clusters, of 4 labels
        labels = rng.integers(0, 4, 60)
        found = np.where(rng.random(60) < 0.4, (labels + 1) % k, rng.integers(0, k, 60))
        matchings = itertools.permutations(range(max(4, k)), k)  # the label of each cluster
        best = max(np.mean(np.array(matching)[found] == labels) for matching in matchings)
        assert probes.best_matching(labels, found) == pytest.approx(best)


@pytest.mark.parametrize("method", ["kmeans", "mixture"])
def test_separate_clusters_are_found(method):
    x, labels = blobs(40, distance=100)
    found = probes.cluster_agreement(labels, probes.cluster(x, 3, method))
    assert found == pytest.approx({"adjusted_rand": 1, "nmi": 1, "matching_accuracy": 1})
    assert len(set(probes.cluster(x, 5, method))) == 5


def test_only_a_mixture_finds_elongated_clusters():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    along, across = 2 * rng.normal(size=(400, 1)), 0.3 * rng.normal(size=(400, 2))
    x = along + across + np.stack([4 * labels, 0 * labels], 1)
    assert probes.cluster_agreement(labels, probes.cluster(x, 2, "mixture"))["adjusted_rand"] == pytest.approx(1)
    assert probes.cluster_agreement(labels, probes.cluster(x, 2, "kmeans"))["adjusted_rand"] < 0.5


def test_random_clusters_have_chance_agreement():
    labels, found = np.random.default_rng(0).integers(0, 5, (2, 20_000))
    agreement = probes.cluster_agreement(labels, found)
    assert abs(agreement["adjusted_rand"]) < 0.01
    assert agreement["nmi"] < 0.01
    assert agreement["matching_accuracy"] == pytest.approx(0.2, abs=0.02)


def test_agreement_follows_the_definitions():
    labels, found = np.random.default_rng(1).integers(0, 3, (2, 50))
    found = np.where(np.arange(50) < 30, labels, found)
    pairs = list(itertools.combinations(range(50), 2))
    same = np.array([(labels[i] == labels[j], found[i] == found[j]) for i, j in pairs])
    expected = same[:, 0].mean() * same[:, 1].mean()  # Hubert & Arabie 1985
    index = (same.all(1).mean() - expected) / (same.mean(0).mean() - expected)
    table = np.array([[np.mean((labels == a) & (found == b)) for b in range(3)] for a in range(3)])
    p, q = table.sum(1), table.sum(0)
    information = (table * np.log(table / np.outer(p, q))).sum()
    nmi = 2 * information / -(p @ np.log(p) + q @ np.log(q))
    agreement = probes.cluster_agreement(labels, found)
    assert (agreement["adjusted_rand"], agreement["nmi"]) == (pytest.approx(index), pytest.approx(nmi))


def test_probes_are_fitted_to_training_features_and_scored_on_test_features():
    (train, labels), (test, test_labels) = blobs(60, distance=4), blobs(200, distance=4, seed=1)
    accuracies = probes.probe_accuracies(train, labels, test, test_labels)
    distance = ((test[:, None] - train) ** 2).sum(-1)
    votes = labels[distance.argsort(1)[:, :5]]
    nearest = np.array([np.bincount(vote).argmax() for vote in votes])  # ties go to the smallest label
    assert accuracies["nearest_neighbours"] == pytest.approx(np.mean(nearest == test_labels))
    assert 0.9 < accuracies["linear_probe"] < 1
    assert probes.probe_accuracies(train, (labels + 1) % 3, test, test_labels)["linear_probe"] < 0.1


def test_linear_probe_fails_on_concentric_rings():
    angle = np.linspace(0, 40, 300)
    labels = np.arange(300) % 2
    x = (0.1 + labels)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    accuracies = probes.probe_accuracies(x, labels, x, labels)
    assert accuracies["nearest_neighbours"] == 1
    assert accuracies["linear_probe"] < 0.7


def test_principal_components_are_fitted_to_the_training_features():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(200, 4)) * [1, 9, 0.1, 3], rng.normal(size=(50, 4)) + 7
    found, of_test = probes.principal_components(train, 2, test)
    centre = train.mean(0)
    directions = np.linalg.svd(train - centre)[2][:2]
    np.testing.assert_allclose(abs(found), abs((train - centre) @ directions.T), atol=1e-8)
    np.testing.assert_allclose(abs(of_test), abs((test - centre) @ directions.T), atol=1e-8)
    assert probes.principal_components(train, 9, test)[1].shape == (50, 4)
