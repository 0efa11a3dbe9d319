"""Average precision against copairs, and its nulls against their definition."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.retrieval.average_precision import (
    _above,
    _counted_above,
    average_precision,
    benjamini_hochberg,
    drawn_precisions,
    group_average_precision,
    null_precisions,
    p_values,
)


def test_average_precision_by_hand():
    positive = np.array([[0.9, 0.5, np.nan], [0.1, 0.2, 0.3], [np.nan] * 3])
    negative = np.array([[0.7, 0.6, 0.4], [0.3, 0.25, -np.inf], [0.0, 0.0, 0.0]])
    # ranks 1 and 4; then 0.3 ties with a negative and comes first, 0.2 is fourth, 0.1 fifth
    expected = [(1 / 1 + 2 / 4) / 2, (1 / 1 + 2 / 4 + 3 / 5) / 3, np.nan]
    np.testing.assert_allclose(average_precision(positive, negative), expected)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_counting_and_sorting_rank_alike(seed):
    rng = np.random.default_rng(seed)
    positive, negative = rng.integers(0, 6, (5, 7)) / 5, rng.integers(0, 6, (5, 20)) / 5
    positive[rng.random((5, 7)) < 0.3] = np.nan
    ordered = -np.sort(-positive, axis=1)
    known = ~np.isnan(ordered)
    np.testing.assert_array_equal(_counted_above(ordered, negative)[known], _above(ordered, negative)[known])


def test_a_null_is_every_subset_of_ranks_where_there_are_few():
    expected = sorted((1 / a + 2 / b) / 2 for a, b in itertools.combinations(range(1, 12), 2))
    np.testing.assert_allclose(null_precisions(2, 11), expected)


@pytest.mark.parametrize("positives", [3, 70], ids=["drawn one by one", "by sorting keys"])
def test_a_drawn_null_has_the_mean_that_chance_has(positives):
    """Expected average precision of M positives among L: (1/L) ((M-1)/(L-1) (L - H_L) + H_L)."""
    total = 200
    harmonic = sum(1 / k for k in range(1, total + 1))
    mean = ((positives - 1) / (total - 1) * (total - harmonic) + harmonic) / total
    drawn = drawn_precisions(positives, total)
    assert len(drawn) == 100_000
    assert drawn.mean() == pytest.approx(mean, abs=5 * drawn.std() / np.sqrt(len(drawn)))


def test_a_drawn_null_agrees_with_the_enumerated_one(monkeypatch):
    exact = null_precisions(3, 40)
    drawn = np.sort(drawn_precisions(3, 40))
    levels = [0.1, 0.5, 0.9, 0.99]
    np.testing.assert_allclose(np.quantile(drawn, levels), np.quantile(exact, levels), rtol=0.03)
    np.testing.assert_array_equal(drawn_precisions(3, 40, seed=1), drawn_precisions(3, 40, seed=1))


def test_p_counts_what_is_higher_and_not_what_ties():
    # one positive among 4: precisions 1, 1/2, 1/3, 1/4, each with chance 1/4
    p = p_values(np.array([1, 1 / 3, 1 / 4]), np.array([1, 1, 1]), np.array([4, 4, 4]))
    np.testing.assert_allclose(p, [1 / 100_001, (1 + 50_000) / 100_001, (1 + 75_000) / 100_001])


def test_a_query_without_positives_has_no_null():
    with pytest.raises(ValueError, match="0 positives among 5 candidates"):
        null_precisions(0, 5)


def test_benjamini_hochberg_is_scipy_s():
    from scipy.stats import false_discovery_control

    p = np.random.default_rng(0).random(50) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_average_precision_ignores_order_rotation_and_scale(seed):
    rng = np.random.default_rng(seed)
    features, label = rng.normal(size=(40, 6)), np.arange(40) % 9
    order = rng.permutation(40)
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    plain, positives, candidates = group_average_precision(features, label)
    moved, _, _ = group_average_precision(((features * rng.uniform(0.1, 9, (40, 1))) @ rotation)[order], label[order])
    np.testing.assert_allclose(moved, plain[order])
    assert set(positives) == {3, 4}
    assert set(candidates) == {39}


def test_group_average_precision_is_copairs():
    copairs = pytest.importorskip("copairs.map")
    rng = np.random.default_rng(0)
    label = rng.integers(30, size=120)
    features = rng.normal(size=(30, 16))[label] + 2 * rng.normal(size=(120, 16))
    meta = pd.DataFrame({"label": label})
    theirs = copairs.average_precision(meta, features, ["label"], [], [], ["label"], progress_bar=False)
    ours, positives, _ = group_average_precision(features, label)
    np.testing.assert_allclose(ours, theirs["average_precision"], atol=1e-6)
    np.testing.assert_array_equal(positives, theirs["n_pos_pairs"])
