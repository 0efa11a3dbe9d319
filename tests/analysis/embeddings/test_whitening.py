"""Whitening in blocks: the definition, whatever the number of controls and of blocks."""

import numpy as np
import pytest
from scipy import linalg

from analysis.embeddings.whitening import TVN_RIDGE, batch_whitening, whitening_matrix


def controls(count, width, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, width)) @ rng.normal(size=(width, width))
    return values - values.mean(axis=0)


@pytest.mark.parametrize("blocks", [1, 4, 13])
@pytest.mark.parametrize(("count", "rank"), [(300, 12), (13, 12), (8, 7)], ids=["many", "one more", "few"])
def test_controls_get_unit_covariance(count, rank, blocks):
    values = controls(count, 12)
    whitened = values @ whitening_matrix(np.array_split(values, min(blocks, count)))
    assert whitened.shape == (count, rank)
    np.testing.assert_allclose(whitened.T @ whitened / count, np.eye(rank), atol=1e-9)


@pytest.mark.parametrize("blocks", [1, 5])
def test_a_combination_of_features_is_left_out(blocks):
    values = controls(100, 4)
    twice = np.hstack([values, values])
    assert whitening_matrix(np.array_split(twice, blocks)).shape == (8, 4)


def test_constant_features_cannot_be_whitened():
    with pytest.raises(ValueError, match="all 3 features are constant over the controls"):
        whitening_matrix([np.zeros((5, 3)), np.zeros((4, 3))])


@pytest.mark.parametrize("count", [5, 12, 60], ids=["fewer than features", "as many", "more"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_a_batch_is_whitened_by_the_power_of_its_covariance(count, blocks):
    values = np.random.default_rng(1).normal(size=(count, 12)) + 3
    found = batch_whitening(np.array_split(values, blocks), values.mean(axis=0), count)
    covariance = np.cov(values, rowvar=False) + TVN_RIDGE * np.eye(12)
    expected = linalg.fractional_matrix_power(covariance, -0.5).real
    np.testing.assert_allclose(found.apply(np.eye(12)), expected, atol=1e-10)
