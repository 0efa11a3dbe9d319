"""Sketches of recalls over genes: variances and covariances as a direct sum over pairs that share a gene gives them."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.recall.gene_sketch import SIGNS, gene_sketch, sketched_variance
from analysis.recall.pairs import Pairs
from analysis.recall.relationship_recall import relationship_recall, sketched_recall

GENES = [f"gene {number}" for number in range(60)]
Indices = np.ndarray


def pairs(rng: np.random.Generator, count: int = 400) -> tuple[Indices, Indices]:
    chosen = rng.permutation([(a, b) for a in range(60) for b in range(a)])[:count]
    return chosen[:, 0], chosen[:, 1]


def dyadic(first: Indices, second: Indices, one: np.ndarray, other: np.ndarray) -> float:
    """Sum of products of the deviations of pairs that share a gene, by brute force."""
    shares = (first[:, None] == first) | (first[:, None] == second) | (second[:, None] == first)
    shares |= second[:, None] == second
    return float((one - one.mean()) @ shares @ (other - other.mean())) / len(one) ** 2


def recalled(rng: np.random.Generator, first: Indices, second: Indices, strength: float) -> np.ndarray:
    effect = strength * rng.normal(size=len(GENES))
    return (effect[first] + effect[second] + rng.normal(size=len(first)) < 0).astype(float)


@pytest.mark.parametrize("strength", [0.0, 1.0], ids=["pairs", "genes"])
def test_the_variance_is_that_of_pairs_that_share_genes(strength: float) -> None:
    estimates, exact = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        first, second = pairs(rng)
        found = recalled(rng, first, second, strength)
        by_genes, by_pairs = gene_sketch([f"{seed}{gene}" for gene in GENES], first, second, found)
        estimates.append(np.mean(by_genes**2) - np.mean(by_pairs**2))
        exact.append(dyadic(first, second, found, found))
    assert np.mean(estimates) == pytest.approx(np.mean(exact), rel=0.06)
    assert (np.mean(exact) > 2 * 0.25 / 400) == (strength > 0)


def test_products_of_two_sketches_are_the_covariance_of_two_maps_of_the_same_genes() -> None:
    estimates, exact = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        first, second = pairs(rng)
        one = recalled(rng, first, second, 1.0)
        other = np.where(rng.random(len(one)) < 0.3, recalled(rng, first, second, 1.0), one)
        names = [f"{seed}{gene}" for gene in GENES]
        products = gene_sketch(names, first, second, one) * gene_sketch(names, first, second, other)
        estimates.append(products[0].mean() - products[1].mean())
        exact.append(dyadic(first, second, one, other))
    assert np.mean(estimates) == pytest.approx(np.mean(exact), rel=0.1)


def test_signs_belong_to_names_whatever_their_order() -> None:
    rng = np.random.default_rng(0)
    first, second = pairs(rng)
    found = recalled(rng, first, second, 1.0)
    order = rng.permutation(len(GENES))
    place = np.argsort(order)
    moved = gene_sketch([GENES[index] for index in order], place[second], place[first], found)
    np.testing.assert_allclose(moved, gene_sketch(GENES, first, second, found), atol=1e-7)
    assert np.abs(gene_sketch([g.upper() for g in GENES], first, second, found) - moved).max() > 1e-3


def test_a_variance_is_at_least_that_of_independent_pairs() -> None:
    sketch = np.stack([np.full(SIGNS, 1.0), np.full(SIGNS, 0.9)])
    assert sketched_variance(sketch) == pytest.approx(0.81)
    assert sketched_variance(2 * sketch[None]) == pytest.approx([3.24])


def test_a_recall_comes_with_its_sketch_and_is_the_same_without() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(60, 8))
    known = Pairs("p", tuple((GENES[a], GENES[b]) for a in range(40) for b in range(a)), 780, 0, 0, 0)
    ((result, sketch),) = sketched_recall(GENES, embeddings, [known], replicates=20)
    assert [result] == relationship_recall(GENES, embeddings, [known], replicates=20)
    assert sketch is not None
    assert sketch.shape == (2, SIGNS)
    spread = (result.recall_high - result.recall_low) / 4 if result.recall_high and result.recall_low else 0.0
    assert 0.2 * spread < float(np.sqrt(sketched_variance(sketch))) < 2 * spread
