"""Which known pairs a map recalls, so that recalls of the same pairs can be compared pair by pair.

Legend: G genes, P known pairs, n maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arrays import Floats
from analysis.recall.pair_design import Indices, PairDesign


@dataclass(frozen=True)
class PairOutcomes:
    """The known pairs of one source in a map, and which of them it recalls."""

    source: str
    genes: tuple[str, ...]  # (G,) names
    first: Indices  # (P,) position of each pair's first gene
    second: Indices  # (P,)
    recalled: Floats  # (P,) 1 or 0, or in which share of the nulls

    @property
    def recall(self) -> float:
        return float(self.recalled.mean())

    def named_pairs(self) -> list[tuple[str, str]]:
        """The pairs by the names of their genes, each in alphabetical order."""
        names = self.genes
        pairs = zip(self.first.tolist(), self.second.tolist(), strict=True)
        return [(names[a], names[b]) if names[a] < names[b] else (names[b], names[a]) for a, b in pairs]


@dataclass(frozen=True)
class AlignedOutcomes:
    """Outcomes of n maps for the same pairs; NaN for a pair that a map does not hold."""

    design: PairDesign
    recalled: Floats  # (n, P)

    def deviations(self) -> Floats:
        """Each pair's part in how far a map's recall is from its expected value (n, P); 0 if the map lacks the pair."""
        held = np.isfinite(self.recalled)
        means = np.nanmean(self.recalled, axis=1, keepdims=True)
        return np.asarray(np.where(held, self.recalled - means, 0.0) / held.sum(axis=1, keepdims=True))

    def common(self) -> AlignedOutcomes:
        """The pairs that all maps hold.

        Raises:
            ValueError: there is none.
        """
        held = np.isfinite(self.recalled).all(axis=0)
        if not held.any():
            raise ValueError("the maps have no known pair in common")
        if held.all():
            return self
        design = PairDesign.of(self.design.genes, self.design.first[held], self.design.second[held])
        return AlignedOutcomes(design, self.recalled[:, held])


def aligned(outcomes: Sequence[PairOutcomes]) -> AlignedOutcomes:
    """The outcomes of n maps for the pairs that any of them holds.

    Raises:
        ValueError: there is none, or they are of several sources.
    """
    if len(sources := {one.source for one in outcomes}) != 1:
        raise ValueError(f"outcomes of {', '.join(sorted(sources)) or 'no source'} cannot be compared pair by pair")
    first = outcomes[0]
    if all(_same_pairs(one, first) for one in outcomes[1:]):
        design = PairDesign.of(len(first.genes), first.first, first.second)
        return AlignedOutcomes(design, np.stack([one.recalled for one in outcomes]).astype(np.float64))
    named = [one.named_pairs() for one in outcomes]
    pairs = sorted({pair for of_map in named for pair in of_map})
    genes = {gene: index for index, gene in enumerate(sorted({gene for pair in pairs for gene in pair}))}
    column = {pair: index for index, pair in enumerate(pairs)}
    recalled = np.full((len(outcomes), len(pairs)), np.nan)
    for row, (of_map, one) in enumerate(zip(named, outcomes, strict=True)):
        recalled[row, [column[pair] for pair in of_map]] = one.recalled
    places = np.array([(genes[a], genes[b]) for a, b in pairs], dtype=np.int64)
    return AlignedOutcomes(PairDesign.of(len(genes), places[:, 0], places[:, 1]), recalled)


def _same_pairs(one: PairOutcomes, other: PairOutcomes) -> bool:
    return (
        one.genes == other.genes and np.array_equal(one.first, other.first) and np.array_equal(one.second, other.second)
    )
