"""Best learning rate, or other positive setting, at each model size: the lowest point of a parabola in its logarithm.

A sweep that ends at its best rate shows no optimum, and none is claimed. The parabola goes through the best rate and
its two neighbours, since farther away the metric is no parabola; runs of one seed share a level. The interval has two
parts: the noise between seeds, and how far a parabola through five rates moves the lowest point.

Legend: n runs, k rates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats
from analysis.fitting.text import number
from analysis.laws.metric import Metric

NEAR, WIDE = 1, 2  # rates on either side of the best
FEWEST_RATES = 3  # that a parabola needs
SAME_RATE = 9  # decimals of its logarithm

Edge = Literal["lowest", "highest", "diverged"]


@dataclass(frozen=True)
class BestRate:
    """What a sweep at one size says of the best rate."""

    size: Hashable
    best_run: float  # rate of the sweep with the best mean
    rate: float | None  # the optimum; None if the sweep shows none
    low: float  # its interval, or the rates between which it must be; 0 or infinite where open
    high: float
    edge: Edge | None  # if the best rate is the sweep's last on a side, or a rate next to it diverged
    rates: int
    seeds: int
    confidence: float
    bend: float | None = None  # of the parabola whose lowest point is the optimum, in squared log rate

    @property
    def text(self) -> str:
        """One sentence."""
        best = f"{self.size}: of {self.rates} rates the best is {number(self.best_run)}"
        if self.edge == "diverged":
            between = f"{number(self.low)} and {number(self.high if np.isfinite(self.high) else None)}"
            return f"{best}, but a rate next to it diverged: no optimum is shown; it is between {between}"
        if self.edge is not None:
            way = "lower" if self.edge == "lowest" else "higher"
            return f"{best}, the {self.edge} of the sweep: no optimum is shown; run {way} rates"
        if self.rate is None:
            return f"{best}, but the metric has no lowest point there: no optimum is shown"
        measured = f"{self.size}: best rate {number(self.rate)}"
        if not np.isfinite(self.high):
            return f"{measured}, without an interval: that needs more rates or seeds"
        return f"{measured}, {self.confidence:.0%} interval {number(self.low)} to {number(self.high)}"


def best_rates(
    sizes: Sequence[Hashable], rate: Floats, y: Floats, metric: Metric, *, seeds: Sequence[Hashable] = (),
    confidence: float = 0.9,
) -> list[BestRate]:  # fmt: skip
    """The best rate at each size, in the order in which sizes appear.

    Args:
        sizes: (n,) of each run.
        rate: (n,) learning rate, or another positive setting.
        y: (n,) metric; a value that is not finite is that of a run that diverged.
        metric: what kind of number y is.
        seeds: (n,) of each run; default: all runs are of one seed.
        confidence: of the intervals, between 0 and 1.

    Raises:
        ValueError: a rate that is not positive, a value that the metric cannot have, lengths that differ, or a size
            with fewer than 3 rates that did not diverge.
    """
    labels = list(seeds) or [0] * len(sizes)
    if len({len(sizes), len(rate), len(y), len(labels)}) > 1:
        raise ValueError("sizes, rates, metric and seeds differ in length")
    if not (np.isfinite(rate).all() and (rate > 0).all()):
        raise ValueError("every rate must be positive and finite")
    z = to_minimise(y, metric)
    of_size: dict[Hashable, list[int]] = {}
    for index, size in enumerate(sizes):
        of_size.setdefault(size, []).append(index)
    return [
        _best(size, np.log(rate[rows]), z[rows], [labels[row] for row in rows], confidence)
        for size, rows in of_size.items()
    ]


def to_minimise(y: Floats, metric: Metric) -> Floats:
    """What is least at the best rate (n,): the log of a loss or of a share's distance from its bound; minus a score."""
    finite = np.isfinite(y)
    z = np.full(len(y), np.nan)
    with np.errstate(all="ignore"):
        z[finite] = (
            -metric.to_space(y[finite], "linear") if metric.kind == "score" else metric.to_space(y[finite], "log")
        )
    lost = int(np.sum(finite & ~np.isfinite(z)))
    if lost:
        raise ValueError(f"{lost} of {len(y)} values of the metric have no logarithm")
    return z


def _best(size: Hashable, u: Floats, z: Floats, labels: Sequence[Hashable], confidence: float) -> BestRate:
    """The reading of one size's sweep from log rates u (n,)."""
    places, codes = np.unique(np.round(u, SAME_RATE), return_inverse=True)
    means = np.array([z[codes == code].mean() for code in range(len(places))])  # (k,) NaN where a run diverged
    trained = np.flatnonzero(np.isfinite(means))
    if len(trained) < FEWEST_RATES:
        raise ValueError(f"{size}: {len(trained)} rates at which no run diverged; a parabola needs {FEWEST_RATES}")
    at = int(trained[np.argmin(means[trained])])
    edge, optimum, ends, bend = _edge(at, means), None, np.array([-np.inf, np.inf]), None
    if edge == "diverged":
        beside = np.concatenate([[-np.inf], places, [np.inf]])
        ends = beside[[at, at + 2]]
    elif edge is None:
        seeds = np.unique([str(label) for label in labels], return_inverse=True)[1]
        near, wide = (
            _Parabola.of(u[inside] - places[at], z[inside], seeds[inside])
            for inside in (np.isfinite(means[codes]) & (np.abs(codes - at) <= reach) for reach in (NEAR, WIDE))
        )
        optimum, ends = _lowest(near, wide, confidence)
        bend = None if optimum is None else near.bend
        optimum, ends = None if optimum is None else optimum + places[at], ends + places[at]
    low, high = np.exp(ends).tolist()
    rate = None if optimum is None else float(np.exp(optimum))
    return BestRate(
        size, float(np.exp(places[at])), rate, low, high, edge, len(places), len(set(labels)), confidence, bend
    )  # fmt: skip


def _edge(at: int, means: Floats) -> Edge | None:
    """Why the best rate is not inside the sweep, if so."""
    if np.isnan(means[max(at - 1, 0) : at + 2]).any():
        return "diverged"
    if at == 0:
        return "lowest"
    return "highest" if at + 1 == len(means) else None


@dataclass(frozen=True)
class _Parabola:
    """z = level of the seed + slope u + bend u², by least squares."""

    slope: float
    bend: float
    inverse: Floats  # (2, 2) of the normal equations, for slope and bend
    squares: float  # sum of squared residuals
    freedom: int

    @classmethod
    def of(cls, u: Floats, z: Floats, seeds: npt.NDArray[np.int64]) -> _Parabola:
        levels = (seeds[:, None] == np.unique(seeds)).astype(np.float64)
        design = np.column_stack([u, u**2, levels])
        inverse = np.linalg.pinv(design.T @ design)
        coefficients = inverse @ design.T @ z
        squares = float(np.sum((z - design @ coefficients) ** 2))
        slope, bend = coefficients[:2].tolist()
        return cls(slope, bend, inverse[:2, :2], squares, len(z) - design.shape[1])

    @property
    def lowest(self) -> float:
        return -self.slope / (2 * self.bend) if self.bend > 0 else float("nan")


def _lowest(near: _Parabola, wide: _Parabola, confidence: float) -> tuple[float | None, Floats]:
    """Where the near parabola is lowest, and its interval: by Fieller's theorem, widened by what the wide one says.

    Without repeats the noise is that of the wide parabola. With no degree of freedom at all the interval is open; if
    the bend is not shown to be positive, there is no lowest point either.
    """
    from scipy.stats import t as t_distribution

    open_ends = np.array([-np.inf, np.inf])
    if near.bend <= 0:
        return None, open_ends
    noise = near if near.freedom > 0 else wide
    if noise.freedom <= 0:
        return near.lowest, open_ends
    quantile = float(t_distribution.ppf((1 + confidence) / 2, noise.freedom))
    spread = quantile**2 * noise.squares / noise.freedom * near.inverse
    square = 4 * (near.bend**2 - spread[1, 1])
    if square <= 0:
        return None, open_ends
    linear, constant = 4 * (near.slope * near.bend - spread[0, 1]), near.slope**2 - spread[0, 0]
    root = np.sqrt(max(linear**2 - 4 * square * constant, 0.0))
    ends = (-linear + np.array([-root, root])) / (2 * square)
    shape = np.nan_to_num(abs(wide.lowest - near.lowest))
    return near.lowest, ends + np.array([-shape, shape])
