"""Coverage of compute multipliers by recall, paired over genes: how often 90% intervals contain the truth.

    python -m benchmarks.gene_pairing [--simulations 100] [--json]

Each study has two variants, one worth twice the compute of the other, whose recalls are of one draw of genes and pairs.
A pair is recalled if its latent score is low. The score is standard normal over genes and pairs, so that the expected
recall is exactly the law's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm

from analysis.design.compare import Comparison, compare
from analysis.design.pairs import Variant
from analysis.laws.metric import Metric
from analysis.recall.outcomes import PairOutcomes
from benchmarks.coverage import LEAST, MOST

COMPUTE = np.geomspace(1, 1000, 6)
GENES, PAIRS = 150, 900
TRUTH = 2.0
STREAM = 2000  # first seed; the test has others


@dataclass(frozen=True)
class Split:
    """Shares of the score's variance; what is left is of the pair, in all runs alike."""

    own: float = 0.3  # of each run alone
    genes: float = 0.5  # of the pair's genes, in all runs
    taste: float = 0.0  # of the pair's genes in one variant, in all of its runs


SPLITS = (Split(0.1, 0.5), Split(0.1, 0.0), Split(0.6, 0.2), Split(0.02, 0.5, 0.02), Split(0.1, 0.3, 0.2))


@dataclass(frozen=True)
class Study:
    """Two variants of a known multiplier."""

    baseline: Variant
    variant: Variant

    def compared(self, *, over_genes: bool = True) -> Comparison:
        """The comparison, paired over genes and complexes, or not."""
        sides = [one if over_genes else replace(one, outcomes=()) for one in (self.baseline, self.variant)]
        return compare(sides[0], sides[1], Metric("share"))


def simulate(seed: int, split: Split, *, other_genes: bool = False) -> Study:
    """A study; with `other_genes` the variant's genes have other names, so that nothing is known to be shared."""
    rng = np.random.default_rng((7, seed))
    drawn = rng.integers(GENES, size=(2, PAIRS * 2))
    first, second = (side[drawn[0] != drawn[1]][:PAIRS] for side in drawn)
    effect = rng.normal(size=GENES)
    of_pairs = np.sqrt(1 - split.genes - split.own - split.taste) * rng.normal(size=PAIRS)
    shared = np.sqrt(split.genes / 2) * (effect[first] + effect[second]) + of_pairs
    variants = []
    for name, gain in (("a", 1.0), ("b", TRUTH)):
        names = tuple(f"{name if other_genes else ''}g{number}" for number in range(GENES))
        likes = rng.normal(size=GENES)
        fixed = shared + np.sqrt(split.taste / 2) * (likes[first] + likes[second])
        limits = norm.ppf(0.7 - 0.4 * (gain * COMPUTE) ** -0.25)
        recalled = [(fixed + np.sqrt(split.own) * rng.normal(size=PAIRS) < limit) * 1.0 for limit in limits]
        outcomes = tuple(PairOutcomes("list", names, first, second, found) for found in recalled)
        variants.append(Variant(name, COMPUTE, np.array([found.mean() for found in recalled]), outcomes=outcomes))
    return Study(variants[0], variants[1])


def width(found: Comparison) -> float:
    """Of the multiplier's interval, in log m."""
    return float(np.log(found.shared.high / found.shared.low))


def rows(simulations: int) -> Iterator[dict[str, Any]]:
    """Coverage of each split, paired over genes and, as the peer, without; with the median widths in log m."""
    for split in SPLITS:
        found = {
            over_genes: [simulate(STREAM + seed, split).compared(over_genes=over_genes) for seed in range(simulations)]
            for over_genes in (True, False)
        }
        ours, peer = (
            float(np.mean([one.shared.low <= TRUTH <= one.shared.high for one in found[over_genes]]))
            for over_genes in (True, False)
        )
        widths = " and ".join(f"{np.median([width(one) for one in found[over_genes]]):.2f}" for over_genes in found)
        yield {
            "name": f"{split}, widths {widths} ({simulations} simulations)", "unit": "coverage at 90%", "ours": ours,
            "peer": peer, "peer_name": "without the genes", "ratio": ours / peer if peer else None, "goal": LEAST,
            "met": LEAST <= ours <= MOST,
        }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print coverage and median width of each split, paired over genes and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = list(rows(options.simulations))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for row in found:
            print(f"{row['name']:<90}{row['ours']:>6.0%}{row['peer']:>6.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
