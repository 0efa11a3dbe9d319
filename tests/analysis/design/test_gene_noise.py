"""Comparisons paired over genes: noise of genes that both variants share cancels, and the intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from analysis.design.compare import Comparison, compare
from analysis.design.pairs import Variant
from analysis.laws.metric import Metric
from analysis.recall.gene_sketch import gene_sketch

SHARE = Metric("share")
COMPUTE = np.geomspace(1, 1000, 6)
GENES, PAIRS = 150, 900
TRUTH = 2.0


def study(
    seed: int, *, own: float = 0.3, genes: float = 0.5, taste: float = 0.0, other_genes: bool = False
) -> Comparison:
    """Two variants, one worth twice the compute, whose recalls are of one draw of genes and pairs.

    A pair is recalled if its latent score is low: standard normal over genes and pairs, so that the expected recall is
    exactly the law's. `genes` of its variance are of the pair's genes, `own` of each run, the rest of the pair.

    Args:
        seed: of everything.
        own: share of the score's variance that is each run's own.
        genes: share that is of the genes.
        taste: share that is of the pair's genes in one variant, in all of its runs.
        other_genes: name the genes differently in the variant, so that nothing is known to be shared.
    """
    rng = np.random.default_rng((7, seed))
    first, second = rng.integers(GENES, size=(2, PAIRS * 2))
    first, second = (side[first != second][:PAIRS] for side in (first, second))
    effect = rng.normal(size=GENES)
    shared = np.sqrt(genes / 2) * (effect[first] + effect[second]) + np.sqrt(1 - genes - own - taste) * rng.normal(
        size=PAIRS
    )
    variants = []
    for name, gain in (("a", 1.0), ("b", TRUTH)):
        names = [f"{name if other_genes else ''}g{number}" for number in range(GENES)]
        likes = rng.normal(size=GENES)
        fixed = shared + np.sqrt(taste / 2) * (likes[first] + likes[second])
        recalled = [
            (fixed + np.sqrt(own) * rng.normal(size=PAIRS) < norm.ppf(1 - 0.3 - 0.4 * (gain * c) ** -0.25)) * 1.0
            for c in COMPUTE
        ]
        sketches = np.stack([gene_sketch(names, first, second, found) for found in recalled])
        y = np.array([found.mean() for found in recalled])
        variants.append(Variant(name, COMPUTE, y, genes=sketches))
    return compare(variants[0], variants[1], SHARE)


def width(found: Comparison) -> float:
    return float(np.log(found.shared.high / found.shared.low))


def test_pairing_over_genes_narrows_the_interval() -> None:
    joint, apart = (np.median([width(study(seed, own=0.1, other_genes=other)) for seed in range(3)]) for other in
                    (False, True))  # fmt: skip
    assert joint < 0.6 * apart
    assert "the choice of genes, which both variants share" in study(0).notes[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "genes", "taste"), [(0.3, 0.5, 0.0), (0.1, 0.0, 0.0), (0.1, 0.3, 0.2)], ids=["genes", "pairs", "taste"]
)
def test_intervals_with_the_genes_noise_cover(own: float, genes: float, taste: float) -> None:
    found = [study(seed, own=own, genes=genes, taste=taste).shared for seed in range(60)]
    held = [one.low <= TRUTH <= one.high for one in found]
    assert 0.8 <= np.mean(held) <= 0.99


def test_without_sketches_of_every_run_nothing_changes() -> None:
    y = 1 - 0.3 - 0.4 * COMPUTE**-0.25
    noise = np.zeros((6, 2, 8))
    plain, zero = Variant("a", COMPUTE, y), Variant("a", COMPUTE, y, genes=noise)
    better = Variant("b", COMPUTE, 1 - 0.3 - 0.4 * (2 * COMPUTE) ** -0.25 + 0.001 * np.sin(9 * COMPUTE))
    assert compare(zero, better, SHARE) == compare(plain, better, SHARE)
    with pytest.raises(ValueError, match="5 sketches over genes of 6 runs"):
        compare(Variant("a", COMPUTE, y, genes=noise[:5]), better, SHARE)
