"""The gain of one map over another: by hand, and its intervals on simulated assays with a known gain, zero included."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.recall.gain import recall_gain
from analysis.recall.outcomes import PairOutcomes
from tests.analysis.recall.simulated_maps import equal, outcomes, unequal


def test_the_gain_is_the_difference_of_the_recalls_of_pairs_that_both_have() -> None:
    names = ("A", "B", "C", "D")
    trained = PairOutcomes("s", names, np.array([0, 2]), np.array([1, 3]), np.array([1.0, 1.0]))
    own = PairOutcomes("s", names, np.array([0, 2]), np.array([1, 3]), np.array([1.0, 0.0]))
    found = recall_gain([trained], [own])
    assert (found.gain, found.recall, found.initial, found.pairs, found.seeds) == (0.5, 1.0, 0.5, 2, 1)


def test_what_both_maps_find_easy_cancels() -> None:
    rng = np.random.default_rng(0)
    of = equal()
    easy = rng.normal(size=len(of.sizes))[of.member_of[of.pairs()[0]]]
    one, other = (outcomes(of, easy + 0.05 * rng.normal(size=len(easy))) for _ in range(2))
    paired = recall_gain([one], [other])
    assert paired.high - paired.low < 0.1
    assert not paired.can_tell


@pytest.mark.parametrize(("trained", "own"), [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_pairs_that_all_differ_alike_leave_what_unseen_complexes_may_do(trained: float, own: float) -> None:
    """Of 10 complexes none differs, so that up to 1 - 0.05^(1/10) = 25.9% of others can (Clopper and Pearson 1934)."""
    of, reach = equal(10, 4), 1 - 0.05 ** (1 / 10)
    found = recall_gain([outcomes(of, np.full(60, 2 * trained - 1))], [outcomes(of, np.full(60, 2 * own - 1))])
    assert found.gain == trained - own
    assert found.high - found.low == pytest.approx(2 * reach)
    assert -1 <= found.low <= found.gain <= found.high <= 1


def test_a_confidence_in_per_cent_is_refused() -> None:
    one = outcomes(equal(10, 4), np.ones(60))
    with pytest.raises(ValueError, match=r"between 0 and 1, such as 0\.9, not 90"):
        recall_gain([one], [one], 90)


def test_each_seed_has_its_own_pair_of_maps() -> None:
    of = equal(3, 3)
    one = outcomes(of, np.ones(9))
    with pytest.raises(ValueError, match="2 maps and 1 to compare them with"):
        recall_gain([one, one], [one])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["equal", "unequal"])
@pytest.mark.parametrize(
    ("better", "taste", "seeds", "between"),
    [(0.0, 0.0, 1, 0.0), (0.0, 0.5, 2, 0.0), (0.5, 0.5, 1, 0.0), (0.5, 0.3, 3, 0.15)],
    ids=["no gain", "no gain, complexes differ", "gain", "gain, seeds differ"],
)
def test_90_per_cent_intervals_cover_a_known_gain(
    sizes: str, better: float, taste: float, seeds: int, between: float
) -> None:
    """The truth is the mean over many other assays of the same kind."""
    found, sums = [], np.zeros(2)
    for number in range(500):
        rng = np.random.default_rng((17, number))
        of = equal() if sizes == "equal" else unequal(rng)
        member = of.member_of[of.pairs()[0]]
        easy, likes = rng.normal(size=len(of.sizes))[member], taste * rng.normal(size=len(of.sizes))[member]
        shifts = better + between * rng.normal(size=seeds)
        trained = [outcomes(of, easy - 1 + shift + likes + rng.normal(size=len(easy))) for shift in shifts]
        own = [outcomes(of, easy - 1 + rng.normal(size=len(easy))) for _ in range(seeds)]
        if number < 100:
            found.append(recall_gain(trained, own, 0.9))
        sums += sum(a.recalled.sum() - b.recalled.sum() for a, b in zip(trained, own, strict=True)), seeds * len(easy)
    truth = sums[0] / sums[1]
    held = np.mean([one.low <= truth <= one.high for one in found])
    assert held >= 0.82  # 0.85, less the error of 100 assays
