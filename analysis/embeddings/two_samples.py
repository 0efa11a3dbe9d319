"""Compare a sample of any size with one that is kept: Kolmogorov-Smirnov and Cramér-von Mises, from counts.

Of the first sample, only how many values lie between neighbours of the second is kept. The ranks of all values follow
from it, and so do both statistics. Values of the first sample that are equal to each other, and to none of the second,
are taken for different.

Legend: n values of the first sample, m of the second, u different ones of the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats

COUNTED = 1 << 20
"""Values that are counted together."""


@dataclass(frozen=True)
class TwoSamples:
    """How far two samples are apart."""

    ks: float  # largest difference of the distribution functions
    cramer_von_mises: float  # T of Anderson (1962)
    first: int  # n


def two_samples(first: Iterable[Iterable[Floats]], second: npt.ArrayLike) -> TwoSamples:
    """Compare the values of many arrays with one sample (m,).

    Raises:
        ValueError: a sample is empty.
    """
    points, ties = np.unique(np.asarray(second, dtype=np.float64), return_counts=True)  # (u,)
    m = int(ties.sum())
    if not m:
        raise ValueError("the second of two samples is empty")
    below, equal = np.zeros(len(points) + 1, np.int64), np.zeros(len(points) + 1, np.int64)
    for values in _together(first):
        place = np.searchsorted(points, values)  # the first point that is not less
        hit = points[np.minimum(place, len(points) - 1)] == values
        below += np.bincount(place[~hit], minlength=len(below))
        equal += np.bincount(place[hit], minlength=len(below))
    n = int(below.sum() + equal.sum())
    if not n:
        raise ValueError("the first of two samples is empty")
    return TwoSamples(*_statistics(below, equal, np.append(ties, 0), n, m), n)


def _together(parts: Iterable[Iterable[Floats]]) -> Iterator[Floats]:
    """The arrays, several small ones joined."""
    waiting, count = list[Floats](), 0
    for values in (values for part in parts for values in part):
        waiting.append(values)
        count += len(values)
        if count >= COUNTED:
            yield np.concatenate(waiting)
            waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _statistics(
    below: npt.NDArray[np.int64], equal: npt.NDArray[np.int64], ties: npt.NDArray[np.int64], n: int, m: int
) -> tuple[float, float]:
    """Both statistics; equal values share their mean rank.

    Args:
        below: (u + 1,) how many of the first sample are between a point and the one before; the last, above all.
        equal: (u + 1,) how many are equal to a point.
        ties: (u + 1,) how many of the second sample are.
        n: size of the first sample.
        m: size of the second sample.
    """
    until, upper = np.cumsum(below + equal), np.cumsum(ties)  # of each sample, up to and with each point
    before, lower = until - equal, upper - ties  # and before it
    apart = ((before - below) / n - lower / m, before / n - lower / m, until / n - upper / m)
    middle = (equal + ties + 1) / 2  # mean rank of the values at a point, among them
    of_first = below * lower.astype(np.float64) ** 2 + _squares(lower + middle, equal)
    of_second = _squares(before + middle, ties)
    squares = n * float(of_first.sum()) + m * float(of_second.sum())
    t = squares / (n * m * (n + m)) - (4 * n * m - 1) / (6 * (n + m))
    return float(max(np.abs(one).max() for one in apart)), t


def _squares(value: Floats, count: npt.NDArray[np.int64]) -> Floats:
    """Sum of (value - r)² over r = 1 ... count."""
    c = count.astype(np.float64)
    total: Floats = c * value**2 - value * c * (c + 1) + c * (c + 1) * (2 * c + 1) / 6
    return total
