"""Outcomes of several maps are aligned by the names of their genes."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.recall.outcomes import PairOutcomes, aligned
from analysis.recall.pairs import Pairs
from analysis.recall.relationship_recall import recall_of_pairs, relationship_recall

AB_AC_BC = PairOutcomes("s", ("A", "B", "C"), np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([1.0, 0.0, 1.0]))
CB_BD = PairOutcomes("s", ("C", "B", "D"), np.array([0, 1]), np.array([1, 2]), np.array([0.0, 1.0]))


def test_maps_of_other_genes_are_aligned_by_pair() -> None:
    both = aligned([AB_AC_BC, CB_BD])
    np.testing.assert_array_equal(both.recalled, [[1, 0, 1, np.nan], [np.nan, np.nan, 0, 1]])
    np.testing.assert_allclose(both.deviations(), [[1 / 9, -2 / 9, 1 / 9, 0], [0, 0, -1 / 4, 1 / 4]])
    assert both.common().recalled.tolist() == [[1.0], [0.0]]


def test_maps_of_the_same_pairs_keep_their_order() -> None:
    both = aligned([AB_AC_BC, AB_AC_BC])
    np.testing.assert_array_equal(both.recalled, np.stack([AB_AC_BC.recalled] * 2))
    assert both.common() is both


def test_sources_are_not_mixed_and_maps_have_something_in_common() -> None:
    other = PairOutcomes("t", ("A", "B"), np.array([0]), np.array([1]), np.array([1.0]))
    with pytest.raises(ValueError, match="outcomes of s, t cannot be compared"):
        aligned([AB_AC_BC, other])
    alone = PairOutcomes("s", ("X", "Y"), np.array([0]), np.array([1]), np.array([1.0]))
    with pytest.raises(ValueError, match="no known pair in common"):
        aligned([AB_AC_BC, alone]).common()


def test_a_recall_comes_with_the_outcomes_that_it_is_the_mean_of() -> None:
    names = [f"g{number}" for number in range(60)]
    embeddings = np.random.default_rng(0).normal(size=(60, 8))
    known = Pairs("p", tuple((names[a], names[b]) for a in range(40) for b in range(a)), 780, 0, 0, 0)
    for protocol in ("current", "legacy"):
        ((result, outcomes),) = recall_of_pairs(names, embeddings, [known], protocol=protocol)
        assert [result] == relationship_recall(names, embeddings, [known], protocol=protocol)
        assert outcomes.recall == result.recall
        assert len(outcomes.recalled) == result.pairs
