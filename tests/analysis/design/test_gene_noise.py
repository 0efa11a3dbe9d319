"""Comparisons paired over genes: noise of genes that both variants share cancels, and the intervals cover."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.design.compare import compare
from analysis.design.pairs import Variant
from analysis.laws.metric import Metric
from analysis.recall.outcomes import PairOutcomes
from benchmarks.gene_pairing import COMPUTE, TRUTH, Split, simulate, width

SHARE = Metric("share")


def test_pairing_over_genes_narrows_the_interval() -> None:
    joint, apart = (
        np.median([width(simulate(seed, Split(own=0.1), other_genes=other).compared()) for seed in range(3)])
        for other in (False, True)
    )
    assert joint < 0.6 * apart
    assert "the choice of genes and complexes, which both variants share" in simulate(0, Split()).compared().notes[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "genes", "taste"), [(0.3, 0.5, 0.0), (0.1, 0.0, 0.0), (0.1, 0.3, 0.2)], ids=["genes", "pairs", "taste"]
)
def test_intervals_with_the_genes_noise_cover(own: float, genes: float, taste: float) -> None:
    found = [simulate(seed, Split(own, genes, taste)).compared().shared for seed in range(60)]
    held = [one.low <= TRUTH <= one.high for one in found]
    assert 0.8 <= np.mean(held) <= 0.99


def test_without_the_outcomes_of_every_run_nothing_changes() -> None:
    y = 1 - 0.3 - 0.4 * COMPUTE**-0.25
    outcome = PairOutcomes("s", ("A", "B"), np.array([0]), np.array([1]), np.array([1.0]))
    plain, told = Variant("a", COMPUTE, y), Variant("a", COMPUTE, y, outcomes=(outcome,) * 6)
    better = Variant("b", COMPUTE, 1 - 0.3 - 0.4 * (2 * COMPUTE) ** -0.25 + 0.001 * np.sin(9 * COMPUTE))
    assert compare(told, better, SHARE) == compare(plain, better, SHARE)
    with pytest.raises(ValueError, match="outcomes of the pairs of 5 of 6 runs"):
        compare(Variant("a", COMPUTE, y, outcomes=(outcome,) * 5), better, SHARE)
