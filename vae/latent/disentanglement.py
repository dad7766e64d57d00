"""Measure how well single dimensions of the codes stand for the known factors of the images.

Shapes: N images, D dimensions of a code, F factors. Codes are float arrays, (N, D). Factors are given by name, (N,):
floats are quantities, whole numbers are categories. All scores are at most 1, and higher is better.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae.model.estimator import ACTIVE_VARIANCE

Array = NDArray[Any]
Factors = Mapping[str, Array]

BINS = 20  # of a dimension, for mutual information (Locatello et al. 2019)
TREES = 20  # of a random forest
LEAF = 5  # images of a leaf of its trees, or more
VOTES = 1000  # of the FactorVAE score, for the classifier and again for its accuracy
IMAGES_PER_VOTE = 64
TITLES = {  # of the scores, in tables
    "mig": "MIG",
    "sap": "SAP",
    "factor_vae": "FactorVAE",
    "disentanglement": "disentanglement",
    "completeness": "completeness",
    "informativeness": "informativeness",
}


def disentanglement(codes: Array, factors: Factors, train: Array, train_factors: Factors) -> dict[str, float]:
    """Return all scores of codes, (N, D). The forests of `dci` are fitted to the codes of training images, (M, D)."""
    return {
        "mig": mutual_information_gap(codes, factors),
        "sap": separated_attribute_predictability(codes, factors),
        "factor_vae": factor_vae_score(codes, factors),
        **dci(codes, factors, train, train_factors),
    }


def mean_gap(scores: Array) -> float:
    """Return the difference between the two highest of the scores of D dimensions, mean over factors, (D, F)."""
    first, second, *_ = [*np.sort(scores, 0)[::-1], np.zeros(scores.shape[1])]
    return float((first - second).mean())


def mutual_information_gap(codes: Array, factors: Factors) -> float:
    """Return the MIG: the gap of the mutual information with a factor, as a fraction of its entropy (Chen et al. 2018).

    Dimensions are divided into BINS intervals of the same width.
    """
    from sklearn.metrics import mutual_info_score

    binned = [np.digitize(code, np.histogram_bin_edges(code, BINS)[1:-1]) for code in codes.T]
    values = [np.unique(values, return_inverse=True)[1] for values in factors.values()]
    information = [[mutual_info_score(v, code) / mutual_info_score(v, v) for v in values] for code in binned]
    return mean_gap(np.array(information))


def separated_attribute_predictability(codes: Array, factors: Factors) -> float:
    """Return the SAP: the gap of how well one dimension alone predicts a factor (Kumar et al. 2018)."""
    return mean_gap(np.array([[predictability(code, values) for values in factors.values()] for code in codes.T]))


def predictability(code: Array, values: Array) -> float:
    """Return the squared correlation of one dimension with a quantity, or how well it tells a category, both (N,).

    That is the balanced accuracy of the best thresholds, one fewer than categories; chance is 1/categories.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    if np.issubdtype(values.dtype, np.floating):
        covariance = np.cov(code, values)
        variances = covariance[0, 0] * covariance[1, 1]
        return float(covariance[0, 1] ** 2 / variances) if variances > 0 else 0.0
    tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(values)), class_weight="balanced", random_state=0)
    predicted = tree.fit(code[:, None], values).predict(code[:, None])
    return float(balanced_accuracy_score(values, predicted))


def dci(codes: Array, factors: Factors, train: Array, train_factors: Factors) -> dict[str, float]:
    """Return disentanglement, completeness and informativeness (Eastwood & Williams 2018), with random forests.

    A forest predicts each factor from all dimensions. Informativeness is its R^2, or the accuracy for a category, on
    codes that it was not fitted to, mean over factors.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    importances, scores = [], []
    for name, values in factors.items():
        kind = RandomForestRegressor if np.issubdtype(values.dtype, np.floating) else RandomForestClassifier
        forest = kind(TREES, min_samples_leaf=LEAF, max_features=None, random_state=0).fit(train, train_factors[name])
        importances.append(forest.feature_importances_)
        scores.append(forest.score(codes, values))
    importance = np.stack(importances, 1)  # (D, F)
    weights = importance.sum(1) / max(importance.sum(), np.finfo(float).tiny)
    return {
        "disentanglement": float(weights @ concentration(importance)),
        "completeness": float(concentration(importance.T).mean()),
        "informativeness": float(np.mean(scores)),
    }


def concentration(importance: Array) -> Array:
    """Return 1 - H/log n for rows of n importances, (m, n) -> (m,): 1 if one has all, and 0 if all are the same."""
    from scipy.stats import entropy

    n = importance.shape[1]
    rows = np.where(importance.sum(1, keepdims=True) > 0, importance, 1.0)
    return 1 - entropy(rows, axis=1) / np.log(max(2, n))


def factor_vae_score(codes: Array, factors: Factors) -> float:
    """Return the accuracy with which the dimension of least variance tells the factor that is fixed (Kim & Mnih 2018).

    For each vote, one factor is fixed at the value of a random image, and the variance of each active dimension over
    IMAGES_PER_VOTE images with this value is divided by its variance over all images. The score of codes without active
    dimensions is 0.
    """
    rng = np.random.default_rng(0)
    variance = codes.var(0)
    active = variance > ACTIVE_VARIANCE
    if not active.any():
        return 0.0
    codes, variance = codes[:, active], variance[active]
    values = [np.unique(values, return_inverse=True)[1] for values in factors.values()]
    rows = [[np.flatnonzero(v == value) for value in range(v.max() + 1)] for v in values]
    tables = np.zeros((2, codes.shape[1], len(values)))  # votes for the classifier, and to score it
    for table in tables:
        for _ in range(VOTES):
            factor = rng.integers(len(values))
            chosen = rng.choice(rows[factor][rng.choice(values[factor])], IMAGES_PER_VOTE)
            table[(codes[chosen].var(0) / variance).argmin(), factor] += 1
    majority = tables[0].argmax(1)
    return float(tables[1][np.arange(len(majority)), majority].sum() / VOTES)
