"""Pairs of runs: which runs are averaged, and rows that hold what pairs share apart."""

import numpy as np
import pytest

from analysis.design.pairs import ALONE, DIFFERENCE, SUM, Variant, rows_of
from analysis.laws.metric import Metric

LOSS = Metric("loss")


def variant(compute, log_loss, cells=(), seeds=(), name="A"):
    return Variant(name, np.array(compute, dtype=float), np.exp(np.array(log_loss, dtype=float)), cells, seeds)


def test_a_pair_is_a_mean_over_the_seeds_that_both_have():
    first = variant([1, 1, 1, 10, 100], [2, 4, 60, 3, 2], ("s", "s", "s", "m", "l"), (0, 1, 9, 0, 0))
    second = variant([1, 1, 10, 100], [5, 7, 1, 0], ("s", "s", "m", "l"), (1, 0, 0, 0))
    rows = rows_of(first, second, LOSS, "log")
    assert rows.z.tolist() == pytest.approx([3, 6, 3, 1, 2, 0])
    assert rows.is_variant.tolist() == [0, 1] * 3
    assert rows.kinds.tolist() == [DIFFERENCE, SUM] * 3
    assert (rows.pairs, rows.runs) == (3, 8)  # seed 9 has no partner


def test_what_both_runs_of_a_pair_share_is_in_the_sums_alone():
    compute, noise = [1, 10, 100, 1000], np.array([5.0, -3, 1, 8])
    rows = rows_of(variant(compute, noise), variant(compute, noise + 1), LOSS, "log")
    turned = rows.rotation @ rows.z
    np.testing.assert_allclose(turned[rows.kinds == DIFFERENCE], 1 / np.sqrt(2))
    np.testing.assert_allclose(turned[rows.kinds == SUM], (2 * noise + 1) / np.sqrt(2))
    np.testing.assert_allclose(rows.rotation @ rows.rotation.T, np.eye(8), atol=1e-12)


def test_runs_of_one_compute_are_a_cell_without_names_and_few_pairs_are_none():
    rows = rows_of(variant([1, 1 + 1e-9, 10, 50], [1, 3, 2, 2]), variant([1, 10, 70], [1, 1, 1]), LOSS, "log")
    assert rows.z.tolist() == pytest.approx([2, 1, 2, 1, 2, 1])
    assert rows.pairs == 0
    assert (rows.kinds == ALONE).all()
    np.testing.assert_array_equal(rows.rotation, np.eye(6))


def test_seeds_without_any_partner_still_make_a_pair_of_cells():
    compute, cells = [1, 10, 100], ("s", "m", "l")
    rows = rows_of(
        variant(compute, [3, 2, 1], cells, (0, 0, 0)), variant(compute, [3, 2, 1], cells, (1, 1, 1)), LOSS, "log"
    )
    assert (rows.pairs, rows.runs) == (3, 6)
