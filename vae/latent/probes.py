"""What labels have to do with features: clusters of them, and how well simple classifiers read them.

Shapes: N images, F features of each. Features are float arrays, labels integers from 0 on.
"""

import warnings
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae.errors import UserError

Array = NDArray[Any]

WIDE = 200  # features; more than these have no full covariances fitted
NEIGHBOURS = 5


def clusters(x: Array, k: int, method: str) -> Array:
    """The cluster of each, (N,), of features (N, F): by "kmeans", or by a "mixture" of k Gaussians."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    if method == "kmeans":
        return KMeans(k, n_init=10, random_state=0).fit_predict(x)
    kind = "full" if x.shape[1] <= WIDE else "diag"
    return GaussianMixture(k, covariance_type=kind, reg_covar=1e-3, n_init=3, random_state=0).fit_predict(x)


def best_matching(labels: Array, found: Array) -> float:
    """The part of images, (N,) and (N,), whose cluster has their label, if each label is given to one cluster at most.

    Of all such ways to name clusters, the best (Kuhn 1955).
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, found)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))


def agreement(labels: Array, found: Array) -> dict[str, float]:
    """Of clusters with labels, both (N,): 1 is all, and of the first two 0 is what chance gives."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "adjusted_rand": float(adjusted_rand_score(labels, found)),
        "nmi": float(normalized_mutual_info_score(labels, found)),
        "matching_accuracy": best_matching(labels, found),
    }


def accuracies(train: Array, labels: Array, test: Array, test_labels: Array) -> dict[str, float]:
    """The parts of test images, (M, F), whose labels logistic regression and k-NN know that were fitted to (N, F)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last iterations change no accuracy
        linear = LogisticRegression(max_iter=300).fit(train, labels)
    nearest = KNeighborsClassifier(min(NEIGHBOURS, len(train))).fit(train, labels)
    return {
        "linear_probe": float(linear.score(test, test_labels)),
        "nearest_neighbours": float(nearest.score(test, test_labels)),
    }


def principal(train: Array, dimensions: int, *others: Array) -> list[Array]:
    """Features (N, F), and others, in so many principal components of the first, or in as many as it has."""
    from sklearn.decomposition import PCA

    pca = PCA(min(dimensions, *train.shape), random_state=0).fit(train)
    return [pca.transform(x) for x in (train, *others)]


def umap_of(codes: Array) -> Array:
    """Codes (N, D) in two dimensions that keep neighbours near each other (McInnes et al. 2018), (N, 2)."""
    neighbours = min(15, len(codes) - 1)
    return np.asarray(umap().UMAP(neighbours, random_state=0, n_jobs=1).fit_transform(codes))


def umap() -> Any:
    """The package; UserError if it is not installed."""
    try:
        return import_module("umap")
    except ImportError:
        raise UserError("map=umap needs umap-learn: pip install -e '.[map]'") from None
