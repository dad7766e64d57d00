"""Compare features with labels: clustering, and simple classifiers (probes).

Shapes: N images, F features per image. Features are float arrays, labels are integers from 0 on.
"""

import warnings
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae.errors import UserError

Array = NDArray[Any]

MAX_FULL_COVARIANCE = 200  # with more features, mixtures have diagonal covariances
N_NEIGHBOURS = 5


def cluster(x: Array, k: int, method: str) -> Array:
    """Divide features (N, F) into k clusters by "kmeans" or a Gaussian "mixture". Returns cluster indices, (N,)."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    if method == "kmeans":
        return KMeans(k, n_init=10, random_state=0).fit_predict(x)
    covariance = "full" if x.shape[1] <= MAX_FULL_COVARIANCE else "diag"
    return GaussianMixture(k, covariance_type=covariance, reg_covar=1e-3, n_init=3, random_state=0).fit_predict(x)


def best_matching(labels: Array, clusters: Array) -> float:
    """Return the accuracy of the best one-to-one matching of clusters with labels, both (N,) (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, clusters)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))


def cluster_agreement(labels: Array, clusters: Array) -> dict[str, float]:
    """Measure how well clusters agree with labels, both (N,): 1 is perfect, and 0 is chance for the first two."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "adjusted_rand": float(adjusted_rand_score(labels, clusters)),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "matching_accuracy": best_matching(labels, clusters),
    }


def probe_accuracies(train: Array, labels: Array, test: Array, test_labels: Array) -> dict[str, float]:
    """Fit logistic regression and k-nearest neighbours to (N, F) features; return their accuracies on (M, F)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last iterations do not change the accuracy
        linear = LogisticRegression(max_iter=300).fit(train, labels)
    nearest = KNeighborsClassifier(min(N_NEIGHBOURS, len(train))).fit(train, labels)
    return {
        "linear_probe": float(linear.score(test, test_labels)),
        "nearest_neighbours": float(nearest.score(test, test_labels)),
    }


def principal_components(train: Array, n_components: int, *others: Array) -> list[Array]:
    """Fit a PCA to features (N, F) and apply it to them and to others. It has at most min(N, F) components."""
    from sklearn.decomposition import PCA

    pca = PCA(min(n_components, *train.shape), random_state=0).fit(train)
    return [pca.transform(x) for x in (train, *others)]


def umap_projection(codes: Array) -> Array:
    """Project codes (N, D) to (N, 2) so that neighbours stay close (UMAP, McInnes et al. 2018)."""
    neighbours = min(15, len(codes) - 1)
    return np.asarray(import_umap().UMAP(neighbours, random_state=0, n_jobs=1).fit_transform(codes))


def import_umap() -> Any:
    """Import the umap package. Raises UserError if it is not installed."""
    try:
        return import_module("umap")
    except ImportError:
        raise UserError("map=umap needs umap-learn: pip install umap-learn") from None
