"""Scores of codes whose disentanglement is known: perfect, duplicated, entangled, noisy and constant."""

import math
from itertools import product

import numpy as np
import pytest

from vae.latent.disentanglement import (
    concentration,
    dci,
    disentanglement,
    factor_vae_score,
    mutual_information_gap,
    predictability,
    separated_attribute_predictability,
)

RNG = np.random.default_rng(0)
A, B, C = (np.array(values) for values in zip(*product(range(10), range(10), range(40)), strict=True))
QUANTITIES = {"a": A / 9, "b": B / 9.0}  # with 40 images of each pair
CATEGORIES = {"kind": A // 2}  # 5 kinds
NOISE = RNG.normal(size=(2, len(A)))


def columns(*values):
    return np.stack(values, 1).astype(np.float32)


def scores(codes, factors):
    """Return the scores of codes that training and test images share."""
    return disentanglement(codes, factors, codes, factors)


def test_perfect_codes_have_the_highest_scores():
    assert scores(columns(B, -2 * A), QUANTITIES) == pytest.approx(
        dict.fromkeys(("mig", "sap", "factor_vae", "disentanglement", "completeness", "informativeness"), 1.0), abs=1e-6
    )


def test_a_dimension_of_noise_changes_little():
    found = scores(columns(A, NOISE[0], B), QUANTITIES)
    assert found["mig"] == pytest.approx(1, abs=0.05)  # with 4000 images, noise seems to have some information
    assert min(found.values()) > 0.94
    assert found["factor_vae"] == 1


def test_entangled_codes_have_the_lowest_gaps():
    """A rotation by 45 degrees of two quantities."""
    found = scores(columns(A + B, A - B), QUANTITIES)
    assert found["mig"] == pytest.approx(0, abs=1e-6)
    assert found["sap"] == pytest.approx(0, abs=1e-6)
    assert found["factor_vae"] == pytest.approx(0.5, abs=0.06)
    assert found["disentanglement"] < 0.1
    assert found["completeness"] < 0.1
    assert found["informativeness"] > 0.9


def test_constant_codes_know_nothing():
    codes = np.full((len(A), 3), 0.7, np.float32)
    found = scores(codes, QUANTITIES)
    assert found == pytest.approx(dict.fromkeys(found, 0), abs=1e-4)
    assert scores(codes, CATEGORIES)["informativeness"] == pytest.approx(1 / 5)


def test_a_factor_in_two_dimensions_is_not_complete():
    codes = columns(A, A, B)
    assert mutual_information_gap(codes, QUANTITIES) == pytest.approx(0.5)
    assert separated_attribute_predictability(codes, QUANTITIES) == pytest.approx(0.5)
    assert factor_vae_score(codes, QUANTITIES) == 1
    found = dci(codes, QUANTITIES, codes, QUANTITIES)
    assert found["disentanglement"] == pytest.approx(1, abs=1e-6)
    assert found["completeness"] == pytest.approx(1 - math.log(2) / math.log(3) / 2, abs=0.05)


def test_two_factors_in_one_dimension_are_not_disentangled():
    codes = columns(10 * A + B, NOISE[0])
    found = dci(codes, QUANTITIES, codes, QUANTITIES)
    assert found["disentanglement"] < 0.1
    assert found["completeness"] > 0.8
    assert found["informativeness"] > 0.9


def test_gap_of_the_mutual_information_of_a_noisy_channel():
    """A bit that one dimension tells exactly, and another in 3 of 4 cases: 1 - (1 - H(1/4)) = H(1/4) bits."""
    bit = np.arange(4000) % 2
    wrong = np.where(np.arange(4000) % 8 < 2, 1 - bit, bit)
    entropy = -(math.log2(1 / 4) / 4 + 3 * math.log2(3 / 4) / 4)
    assert mutual_information_gap(columns(bit, wrong), {"bit": bit}) == pytest.approx(entropy, abs=1e-6)


def test_a_dimension_has_twenty_intervals():
    values = np.arange(4000) % 40
    assert mutual_information_gap(columns(values), {"a": values}) == pytest.approx(math.log(20) / math.log(40))


def test_gap_of_the_squared_correlation():
    """y = a + e has the squared correlation Var(a) / (Var(a) + Var(e)) with a."""
    noisy = A / A.std() + NOISE[0]
    gap = separated_attribute_predictability(columns(A, noisy), {"a": A.astype(float)})
    assert gap == pytest.approx(1 - 1 / 2, abs=0.03)


def test_thresholds_tell_a_category():
    """Chance is 1/5; a dimension that merges two of five kinds tells 4 of 5."""
    kind = CATEGORIES["kind"]
    assert predictability(3.0 - kind, kind) == 1
    assert predictability(np.minimum(kind, 3), kind) == pytest.approx(0.8)
    assert separated_attribute_predictability(columns(3 - kind, NOISE[0]), CATEGORIES) == pytest.approx(0.8, abs=0.05)
    merged = np.minimum(kind, 3)
    assert separated_attribute_predictability(columns(kind, merged), CATEGORIES) == pytest.approx(0.2, abs=1e-6)


def test_a_rare_category_counts_as_much_as_a_frequent_one():
    """The code is uniform in [0, 1] for one category, and in [1/2, 1] for another that is a tenth as frequent."""
    code = np.concatenate([np.linspace(0, 1, 1000), np.linspace(0.5, 1, 100)])
    assert predictability(code, np.repeat([0, 1], [1000, 100])) == pytest.approx((1 / 2 + 1) / 2, abs=0.01)


def test_a_dimension_of_little_variance_is_not_active():
    assert factor_vae_score(columns(A, B, 1e-3 * NOISE[0]), QUANTITIES) == 1
    assert factor_vae_score(columns(A), QUANTITIES) == pytest.approx(0.5, abs=0.06)
    assert factor_vae_score(columns(1e-3 * A, 1e-3 * B), QUANTITIES) == 0


def test_the_scale_of_a_dimension_does_not_change_its_votes():
    codes = columns(A + 9 * NOISE[0], B + 9 * NOISE[1])
    score = factor_vae_score(codes, QUANTITIES)
    assert 0.6 < score < 0.9
    assert factor_vae_score(codes * np.array([1, 20], np.float32), QUANTITIES) == pytest.approx(score)


def test_votes_are_scored_on_others_than_the_classifier_saw():
    codes = RNG.normal(size=(len(A), 200)).astype(np.float32)  # 5 votes for each dimension
    assert factor_vae_score(codes, QUANTITIES) == pytest.approx(0.5, abs=0.06)


def test_forests_are_scored_on_images_that_they_were_not_fitted_to():
    other = {name: RNG.permutation(values) for name, values in QUANTITIES.items()}
    codes = columns(A, B)
    assert dci(codes, other, codes, QUANTITIES)["informativeness"] < 0
    assert dci(codes, QUANTITIES, codes, QUANTITIES)["informativeness"] == pytest.approx(1)


def test_concentration_is_one_minus_the_normalised_entropy():
    importance = np.array([[0, 3.0, 0], [2, 2, 2], [1, 1, 0], [0, 0, 0]])
    assert concentration(importance) == pytest.approx([1, 0, 1 - math.log(2) / math.log(3), 0])


def test_one_dimension_has_scores():
    found = scores(columns(A), QUANTITIES)
    assert (found["mig"], found["sap"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert all(np.isfinite(list(found.values())))
