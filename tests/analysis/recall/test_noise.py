"""Components of variance are those that outcomes were drawn with, and intervals cover the expected recall."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest

from analysis.recall.noise import components, interval, noise
from analysis.recall.pair_design import PairDesign
from analysis.recall.pairs import Pairs
from analysis.recall.relationship_recall import relationship_recall
from tests.analysis.recall.simulated_maps import Complexes, embeddings, equal, unequal

Drawn = tuple[Complexes, np.ndarray]


def test_components_are_those_that_outcomes_were_drawn_with() -> None:
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        of = unequal(rng)
        first, second = of.pairs()
        genes = 0.3 * rng.normal(size=of.sizes.sum())
        drawn = 0.5 * rng.normal(size=len(of.sizes))[of.member_of[first]] + genes[first] + genes[second]
        one = components(of.design(), drawn + 0.8 * rng.normal(size=len(first)))
        found.append((one.complexes, one.genes, one.pairs))
    assert np.mean(found, axis=0) == pytest.approx([0.25, 0.09, 0.64], rel=0.12)


def test_the_variance_over_genes_is_the_sum_over_pairs_that_share_one() -> None:
    rng = np.random.default_rng(0)
    chosen = rng.permutation([(a, b) for a in range(40) for b in range(a)])[:200]
    first, second = chosen.T
    outcome = (rng.normal(size=40)[first] + rng.normal(size=200) > 0).astype(float)
    shares = (first[:, None] == first) | (first[:, None] == second) | (second[:, None] == first)
    shares |= second[:, None] == second
    deviation = (outcome - outcome.mean()) / 200
    found = noise(PairDesign.of(40, first, second), outcome)
    assert found.spreads[1].variance == pytest.approx(deviation @ shares @ deviation)


def test_one_complex_tells_nothing_of_others() -> None:
    of = Complexes(np.array([8]))
    outcome = np.arange(28) % 2 * 1.0
    assert not noise(of.design(), outcome).can_tell
    assert interval(of.design(), outcome, 0.95) == (0.0, 1.0)


def test_one_gene_in_all_pairs_tells_nothing_of_others() -> None:
    hub = PairDesign.of(200, np.zeros(199, dtype=np.int64), np.arange(1, 200))
    for outcome in (np.arange(199) % 3 == 0, np.zeros(199), np.ones(199)):
        assert interval(hub, outcome.astype(float), 0.95) == (0.0, 1.0)


@pytest.mark.parametrize(("hubs", "targets"), [(2, 50), (5, 40), (30, 20)])
def test_95_per_cent_intervals_cover_the_recall_of_new_hubs(hubs: int, targets: int) -> None:
    """Lists such as a regulator's targets: pairs share genes and make no complex. The truth is of many other hubs."""
    rng = np.random.default_rng(1)
    first, second = np.repeat(np.arange(hubs), targets), hubs + np.arange(hubs * targets)
    design = PairDesign.of(hubs * (targets + 1), first, second)
    drawn = rng.normal(size=(2200, hubs))[:, first] + rng.normal(size=(2200, len(first))) > 0.5
    truth = drawn.mean()
    ends = [interval(design, one.astype(float), 0.95) for one in drawn[:200]]
    assert 0.9 <= np.mean([low <= truth <= high for low, high in ends]) <= 1
    assert hubs < 5 or np.median([high - low for low, high in ends]) < 0.6


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, float("nan")])
def test_a_confidence_in_per_cent_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"a confidence is between 0 and 1, such as 0\.9"):
        interval(equal(10, 4).design(), np.arange(60) % 2 * 1.0, confidence)


def test_where_no_pair_is_recalled_the_interval_is_that_of_as_many_complexes() -> None:
    design = equal(10, 4).design()
    exact = binomtest(0, 10).proportion_ci(0.95, method="exact").high
    assert interval(design, np.zeros(60), 0.95) == pytest.approx((0.0, exact))
    assert interval(design, np.ones(60), 0.95) == pytest.approx((1 - exact, 1.0))


def equally_strong(rng: np.random.Generator) -> Drawn:
    return equal(), np.full(20, 0.8)


def shared(rng: np.random.Generator) -> Drawn:
    return equal(), np.exp(rng.normal(-0.4, 0.8, 20))


def shared_unequal(rng: np.random.Generator) -> Drawn:
    return (of := unequal(rng)), np.exp(rng.normal(-0.4, 0.8, len(of.sizes)))


def half_of_them(rng: np.random.Generator) -> Drawn:
    return (of := unequal(rng)), 1.5 * (rng.random(len(of.sizes)) < 0.5)


def one_large(rng: np.random.Generator) -> Drawn:
    return (of := Complexes(np.array([30, *[5] * 25]))), np.exp(rng.normal(-0.4, 0.8, len(of.sizes)))


@pytest.mark.slow
@pytest.mark.parametrize("draw", [equally_strong, shared, shared_unequal, half_of_them, one_large])
def test_95_per_cent_intervals_cover_the_recall_of_new_complexes(draw: Callable[[np.random.Generator], Drawn]) -> None:
    """The truth is the share of recalled pairs of many other maps of the same kind."""
    found, recalled, pairs = [], 0.0, 0
    for seed in range(240):
        rng = np.random.default_rng((3, seed))
        of, strength = draw(rng)
        names = [f"g{number}" for number in range(int(of.sizes.sum()) + 120)]
        known = Pairs("list", tuple((names[a], names[b]) for a, b in zip(*of.pairs(), strict=True)), 0, 0, 0, 0)
        maps = embeddings(of, strength, rng)
        (result,) = relationship_recall(names, maps, [known], replicates=int(seed < 80))
        if seed < 80:
            found.append((result.recall_low, result.recall_high))
        recalled, pairs = recalled + result.recall * result.pairs, pairs + result.pairs
    held = [low <= recalled / pairs <= high for low, high in found]
    assert np.mean(held) >= 0.85
