"""How far a recall is from what new complexes, genes and wells would give: variance and interval.

The estimand is the recall expected of complexes, genes and wells that are drawn like those at hand, in a list with
these numbers of pairs. A pair's outcome is y = mean + complex + gene + gene' + pair, all but the mean random, with a
component of variance for each kind. Those of genes and pairs are estimated within groups of pairs (`pair_design`) by
the method of moments (Searle, Casella and McCulloch 1992, chapter 5). That of complexes is estimated between groups
(Paule and Mandel 1982), where every group counts by its precision and not by its number of pairs: one large complex is
taken to vary as the others do, which its own pairs cannot tell.

The interval is at least that of the variance over pairs that share a gene, which assumes no model and is larger where
few genes have most pairs (dyadic-robust: Aronow, Samii and Assenova 2015).

Legend: G genes, P known pairs, C groups, M memberships.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats
from analysis.recall.pair_design import PairDesign

LEAST = 1e-12  # variance of a group's mean, which weighs by its inverse
MOST = 4.0  # variance of outcomes between -1 and 1


@dataclass(frozen=True)
class Components:
    """Variances of one pair's outcome."""

    complexes: float
    genes: float  # of each of its two genes
    pairs: float
    groups: float  # how many groups of equal precision they are known from, at most as many as hubs


@dataclass(frozen=True)
class Spread:
    """A variance and the degrees of freedom that it is known with."""

    variance: float
    freedom: float

    def half_width(self, confidence: float) -> float:
        """Of an interval by Student's t."""
        from scipy.special import stdtrit

        return float(stdtrit(max(self.freedom, 1.0), (1 + confidence) / 2)) * math.sqrt(self.variance)


@dataclass(frozen=True)
class Noise:
    """What the mean of P outcomes varies by."""

    components: Components
    spreads: tuple[Spread, Spread]  # by components; over pairs that share a gene

    @property
    def can_tell(self) -> bool:
        """Whether there are at least two groups; of fewer, nothing is known of how complexes, or hubs, vary."""
        return self.components.groups >= 2

    @property
    def variance(self) -> float:
        return max(spread.variance for spread in self.spreads)

    def half_width(self, confidence: float) -> float:
        """Of the interval of the mean; infinite where it cannot be told."""
        return max(spread.half_width(confidence) for spread in self.spreads) if self.can_tell else math.inf


def noise(design: PairDesign, outcomes: Floats) -> Noise:
    """The noise of the mean of the outcomes (P,)."""
    found, count = components(design, outcomes), len(design)
    shares, degrees = design.sizes / count, design.degrees / count
    freedom = _effective(degrees**2) - 1  # each gene's part of the variance is its squared number of pairs
    parts = [
        Spread(found.complexes * float(np.sum(shares**2)), found.groups - 1),
        Spread(found.genes * float(np.sum(degrees**2)), freedom),
        Spread(found.pairs / count, count - 1),
    ]
    deviations = (outcomes - outcomes.mean()) / count
    by_genes = float(np.sum(design.gene_sums(deviations) ** 2) - np.sum(deviations**2))
    alone = float(np.sum(deviations**2))
    return Noise(found, (summed(parts), Spread(max(by_genes, alone), freedom)))


def interval(design: PairDesign, recalled: Floats, confidence: float) -> tuple[float, float]:
    """The interval of a share, symmetric in its logit, so that it stays between 0 and 1.

    Where no pair is recalled, or all are, it reaches as far as that many groups of which none differs allow (Clopper
    and Pearson 1934). It is (0, 1) where it cannot be told.

    Raises:
        ValueError: the confidence is not between 0 and 1.
    """
    check_confidence(confidence)
    share, found = float(recalled.mean()), noise(design, recalled)
    if not found.can_tell:
        return 0.0, 1.0
    if not 0 < share < 1:
        reach = unseen(design, confidence)
        return (0.0, reach) if share <= 0 else (1 - reach, 1.0)
    logit, half = math.log(share / (1 - share)), found.half_width(confidence) / (share * (1 - share))
    return _expit(logit - half), _expit(logit + half)


def unseen(design: PairDesign, confidence: float) -> float:
    """The largest share of complexes that can differ where none of those at hand does (Clopper and Pearson 1934)."""
    return 1 - math.pow((1 - confidence) / 2, 1 / min(_effective(design.sizes), design.hubs))


def check_confidence(confidence: float) -> None:
    """Raises ValueError if it is not between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence is between 0 and 1, such as 0.9, not {confidence:g}")


def components(design: PairDesign, outcomes: Floats) -> Components:
    """The components of variance of the outcomes (P,)."""
    sizes = design.sizes.astype(np.float64)
    means = np.bincount(design.group, outcomes) / sizes  # (C,)
    genes, pairs = _within(design, outcomes - means[design.group])
    member = design.memberships
    squares = np.bincount(member.group, member.degree**2, len(sizes))
    precise = np.maximum(genes * squares / sizes**2 + pairs / sizes, LEAST)  # (C,) variance of each mean within
    between = _paule_mandel(means, precise)
    return Components(between, genes, pairs, min(_effective(1 / (between + precise)), design.hubs))


def _within(design: PairDesign, deviations: Floats) -> tuple[float, float]:
    """Variances of genes and of pairs, from deviations (P,) from each group's mean.

    Two sums of squares, over pairs and over the genes of each group, are equal to what they are expected to be.
    """
    member, sizes = design.memberships, design.sizes.astype(np.float64)
    degree, of = member.degree, sizes[member.group]
    squares = np.bincount(member.group, degree**2, len(sizes))
    sums = np.bincount(member.first, deviations, len(degree)) + np.bincount(member.second, deviations, len(degree))
    near = np.bincount(member.first, degree[member.second], len(degree))
    near += np.bincount(member.second, degree[member.first], len(degree))
    found = float(np.sum(deviations**2)), float(np.sum(sums**2))
    pair_terms = len(design) - len(sizes), float(np.sum(degree - degree**2 / of))
    gene_terms = (
        2 * len(design) - float(np.sum(squares / sizes)),
        float(np.sum(
            degree**2 + degree + degree**2 * squares[member.group] / of**2 - 2 * degree**3 / of
            - 2 * degree * near / of
        )),
    )  # fmt: skip
    return _solved(found, gene_terms, pair_terms)


def _solved(
    found: tuple[float, float], gene_terms: tuple[float, float], pair_terms: tuple[float, float]
) -> tuple[float, float]:
    """Solve two equations for two variances, none below 0; if groups are too small for both, all is the pairs'."""
    determinant = gene_terms[0] * pair_terms[1] - gene_terms[1] * pair_terms[0]
    only_pairs = found[0] / pair_terms[0] if pair_terms[0] > 0 else 0.0
    if abs(determinant) <= 1e-9 * abs(gene_terms[1] * pair_terms[0]):
        return 0.0, only_pairs
    genes = (found[0] * pair_terms[1] - found[1] * pair_terms[0]) / determinant
    pairs = (gene_terms[0] * found[1] - gene_terms[1] * found[0]) / determinant
    if genes < 0:
        return 0.0, only_pairs
    return (genes, pairs) if pairs >= 0 else (found[0] / gene_terms[0], 0.0)


def _paule_mandel(means: Floats, within: Floats) -> float:
    """The variance between groups at which their weighted squares are as many as their degrees of freedom."""
    from scipy.optimize import brentq

    def excess(between: float) -> float:
        weights = 1 / (between + within)
        centre = np.sum(weights * means) / np.sum(weights)
        return float(np.sum(weights * (means - centre) ** 2)) - (len(means) - 1)

    if len(means) < 2 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, MOST)) if excess(MOST) < 0 else MOST


def summed(parts: Sequence[Spread]) -> Spread:
    """The sum of independent parts, with Satterthwaite's degrees of freedom."""
    variance = sum(part.variance for part in parts)
    squares = sum(part.variance**2 / max(part.freedom, 1.0) for part in parts)  # Satterthwaite (1946)
    return Spread(variance, variance**2 / squares if squares > 0 else 1.0)


def _effective(weights: npt.NDArray[Any]) -> float:
    """How many equal weights are as uneven as these, 1 / sum of squared shares."""
    total = float(np.sum(weights))
    return total**2 / float(np.sum(np.asarray(weights, dtype=np.float64) ** 2)) if total > 0 else 0.0


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -700.0), 700.0)))
