"""What one map recalls more than another of the same genes: two models, or a trained model and its own initialisation.

Both maps are of the same pairs, so complexes and genes that are easy for both cancel (`noise` of the differences, pair
by pair). Over seeds, the difference of each seed is of its own two maps; the interval covers complexes, genes, wells
and seeds together.

Legend: P known pairs, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arrays import Floats
from analysis.recall.noise import LEAST, Spread, check_confidence, noise, summed, unseen
from analysis.recall.outcomes import PairOutcomes, aligned
from analysis.recall.pair_design import PairDesign


@dataclass(frozen=True)
class RecallGain:
    """How much more of a source's pairs the maps recall than those that they are compared with, on average."""

    source: str
    gain: float
    low: float
    high: float
    recall: float
    initial: float  # recall of the other maps
    pairs: int  # that all maps hold
    groups: float  # of pairs that vary together, as many of equal size; below 2, the interval is (-1, 1)
    seeds: int  # with 1, the interval does not cover seeds

    @property
    def can_tell(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def recall_gain(maps: Sequence[PairOutcomes], others: Sequence[PairOutcomes], confidence: float = 0.9) -> RecallGain:
    """The gain in recall of maps over others, one of each for each seed.

    Args:
        maps: (S,) of trained models, or of one variant.
        others: (S,) of their own initialisations, or of the other variant; in the same order.
        confidence: of the interval.

    Raises:
        ValueError: their numbers differ, there is none, sources differ, they have no pair in common, or the confidence
            is not between 0 and 1.
    """
    check_confidence(confidence)
    if len(maps) != len(others) or not maps:
        raise ValueError(f"{len(maps)} maps and {len(others)} to compare them with; there must be one each")
    count = len(maps)
    both = aligned([*maps, *others]).common()
    recalled = both.recalled
    differences: Floats = recalled[:count] - recalled[count:]  # (S, P)
    gain = float(differences.mean())
    found = noise(both.design, differences.mean(axis=0))
    half, reach = math.inf, 0.0
    if found.can_tell:
        reach = unseen(both.design, confidence) if found.variance < LEAST else 0.0  # all pairs differ alike
        seeds = _over_seeds(both.design, differences)
        half = max(summed([spread, seeds]).half_width(confidence) for spread in found.spreads)
    return RecallGain(
        source=maps[0].source, gain=gain,
        low=max(gain - max(half, reach * (gain + 1)), -1.0), high=min(gain + max(half, reach * (1 - gain)), 1.0),
        recall=float(recalled[:count].mean()), initial=float(recalled[count:].mean()),
        pairs=recalled.shape[1], groups=found.components.groups, seeds=count,
    )  # fmt: skip


def _over_seeds(design: PairDesign, differences: Floats) -> Spread:
    """What seeds add to the variance of the mean, beyond what each pair varies by from seed to seed.

    Seeds differ also because their pairs do, and that is in the variance over pairs. Of it, the variance over pairs of
    each seed's deviation from the mean is taken out.
    """
    count = len(differences)
    if count < 2:
        return Spread(0.0, math.inf)
    own = differences - differences.mean(axis=0)
    by_pairs = sum(noise(design, row).spreads[0].variance for row in own) / (count - 1)
    between = float(np.var(differences.mean(axis=1), ddof=1))
    return Spread(max(between - by_pairs, 0.0) / count, count - 1)
