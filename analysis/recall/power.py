"""Power before spending: which difference in recall a study can tell, and how many seeds or genes a slope needs.

A difference of two models on one assay varies by complexes, genes and wells (`analysis.recall.noise`), and by seeds. A
pilot tells both; without one, outcomes of two models are simulated by pair, with stated assumptions.

Legend: P known pairs of the assay's genes, n runs of the grid, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arrays import Floats
from analysis.recall.noise import noise
from analysis.recall.pair_design import PairDesign

LEVEL, POWER = 0.05, 0.8  # two-sided, and how often a true difference should be told
SIMULATED = 20
MOST_SEEDS = 100


@dataclass(frozen=True)
class Assumptions:
    """What outcomes of two models are made of where no pilot tells. Shares of the variance of a pair's score.

    What wells add falls with their number: each model's own part is of `wells` over the wells of a gene.
    """

    recall: float = 0.3
    complexes: float = 0.3  # easy or hard for both models alike
    genes: float = 0.1
    taste: float = 0.05  # of complexes that suit one of the models
    wells: float = 0.5  # of one well; the rest is of the pair, for both alike
    seeds: float = 0.005  # standard deviation of a recall over seeds

    def __str__(self) -> str:
        return (
            f"a recall of {self.recall:g}, of whose variance by pair {self.complexes:.0%} is of complexes, "
            f"{self.genes:.0%} of genes, {self.taste:.0%} of complexes that suit one model, and {self.wells:.0%} over "
            f"the wells of a gene of noise; {self.seeds:g} of deviation over seeds"
        )


@dataclass(frozen=True)
class Variation:
    """What recalls vary by.

    Attributes:
        pairs: variance of the difference of two models on one assay, over complexes, genes and wells.
        freedom: degrees of freedom that the analysis has for it.
        seeds: variance of one run's recall over seeds.
    """

    pairs: float
    freedom: float
    seeds: float

    def difference(self, seeds: int) -> float:
        """The smallest difference of two models that is told with the stated power, each with S seeds."""
        return _multiple(self.freedom) * math.sqrt(self.pairs + 2 * self.seeds / seeds)

    def slope(self, log_compute: Floats, seeds: int) -> float:
        """The smallest slope of recall per decade that is told, from designs at log10 computes (n,), S seeds each.

        Each design has half of a difference's variance over pairs: what models share moves a line, not its slope.
        """
        spread = _spread(log_compute)
        if spread <= 0:
            return math.inf
        deviation = math.sqrt((self.pairs / 2 + self.seeds / seeds) / spread)
        return _multiple(len(log_compute) - 2) * deviation

    def seeds_for(self, slope: float, log_compute: Floats) -> int | None:
        """How many seeds tell this slope; None if no number does, as the genes limit it."""
        enough = (seeds for seeds in range(1, MOST_SEEDS + 1) if self.slope(log_compute, seeds) <= slope)
        return next(enough, None)

    def genes_for(self, slope: float, log_compute: Floats, seeds: int) -> float:
        """How many times as many genes and complexes tell this slope; infinite where the seeds limit it."""
        spread = _spread(log_compute)
        if spread <= 0:
            return math.inf
        allowed = (slope / _multiple(len(log_compute) - 2)) ** 2 * spread - self.seeds / seeds
        return max(self.pairs / 2 / allowed, 1.0) if allowed > 0 else math.inf


def _spread(log_compute: Floats) -> float:
    """Sum of squares of log10 computes (n,) about their mean; 0 where they are too few for a slope."""
    return float(np.sum((log_compute - log_compute.mean()) ** 2)) if len(log_compute) > 2 else 0.0


def _multiple(freedom: float) -> float:
    """Deviations that a difference must have, to be told at LEVEL with POWER."""
    from scipy.special import stdtrit

    freedom = max(freedom, 1.0)
    return float(stdtrit(freedom, 1 - LEVEL / 2) + stdtrit(freedom, POWER))


def measured_variation(
    design: PairDesign, differences: Sequence[Floats], seeds: Sequence[Sequence[float]]
) -> Variation | None:
    """The variation that a pilot shows; None if it has no two models.

    Args:
        design: of the pairs that all maps hold.
        differences: (P,) of the outcomes of two models, for each two of them.
        seeds: recalls of the seeds of each run that has several.
    """
    if not differences:
        return None
    spreads = [max(noise(design, one).spreads, key=lambda spread: spread.variance) for one in differences]
    repeated = [float(np.var(recalls, ddof=1)) for recalls in seeds if len(recalls) > 1]
    own = float(np.mean(repeated)) if repeated else Assumptions().seeds ** 2
    middle = sorted(spreads, key=lambda spread: spread.variance)[len(spreads) // 2]
    return Variation(middle.variance, middle.freedom, own)


def assumed_variation(
    design: PairDesign, wells: float, tails: tuple[float, float], assumptions: Assumptions | None = None
) -> Variation:
    """The variation of two models of equal recall under assumptions, by simulation; the same at every call.

    Args:
        design: of the known pairs in the assay.
        wells: of a gene.
        tails: thresholds of the null; what they recall by chance is noise of each model alone.
        assumptions: default: those of `Assumptions`.
    """
    stated = assumptions or Assumptions()
    spreads = []
    for seed in range(SIMULATED):
        one, other = _outcomes(design, wells, tails, stated, np.random.default_rng(seed))
        spreads.append(noise(design, one - other).spreads[0])
    return Variation(
        float(np.mean([spread.variance for spread in spreads])),
        float(np.median([spread.freedom for spread in spreads])), stated.seeds**2,
    )  # fmt: skip


def _outcomes(
    design: PairDesign, wells: float, tails: tuple[float, float], stated: Assumptions, rng: np.random.Generator
) -> Floats:
    """Which pairs two models recall (2, P)."""
    count, groups = len(design), len(design.sizes)
    noise_share = stated.wells / max(wells, 1.0)
    genes = rng.normal(size=design.genes)
    shared = math.sqrt(stated.complexes) * rng.normal(size=groups)[design.group]
    shared += math.sqrt(stated.genes / 2) * (genes[design.first] + genes[design.second])
    rest = max(1 - stated.complexes - stated.genes - stated.taste - noise_share, 0.0)
    shared += math.sqrt(rest) * rng.normal(size=count)
    score = shared + math.sqrt(noise_share) * rng.normal(size=(2, count))
    score += math.sqrt(stated.taste) * rng.normal(size=(2, groups))[:, design.group]
    chance = tails[0] + 1 - tails[1]
    known = max(stated.recall - chance, 0.0) / (1 - chance)
    recalled = score > _normal_quantile(1 - known)
    return np.asarray(recalled | (rng.random((2, count)) < chance), dtype=np.float64)


def _normal_quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(min(max(share, 1e-12), 1 - 1e-12)))
