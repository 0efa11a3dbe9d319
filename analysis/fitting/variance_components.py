"""Scatter between architectures as a component of variance: runs of one architecture share a level.

z = X b + level of the architecture + noise, where levels have the variance between² and noise has within². Given the
ratio of both variances, coefficients are those of generalised least squares and follow Student's t. The ratio is
averaged over its restricted likelihood, which is its marginal likelihood under flat coefficients (Harville 1974), with
even odds that there is no scatter, and else a half-Cauchy distribution of between over within (Gelman 2006). So an
interval is a quantile of a mixture of Student's t. This is the exact form of what Satterthwaite (1946) and Kenward and
Roger (1997) approximate by one t with fewer degrees of freedom: few architectures leave the ratio open.

Legend: n points, p coefficients, m places, K ratios.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats

RATIOS = np.append(0.0, np.geomspace(1e-2, 1e3, 16))  # of the variance between architectures to that within
NO_SCATTER, CAUCHY = 0.5, 3.0  # odds that there is none; else the scale of the prior for between over within
NEGLIGIBLE = 1e-6  # odds of a ratio that are left out
BISECTIONS = 60
MOST = 1000  # points: a covariance of all pairs is kept for each ratio


@dataclass(frozen=True)
class Levels:
    """The architecture of each point, and how the variance between architectures compares with that within."""

    names: tuple[str, ...]  # of n points
    ratio: float = 0.0

    def subset(self, index: npt.NDArray[Any]) -> Levels:
        return replace(self, names=tuple(self.names[i] for i in index))

    @property
    def whitener(self) -> Floats:
        """A matrix (n, n) that makes residuals with these levels independent, of the variance within."""
        shared = same(self.names)
        sizes = shared.sum(axis=1, keepdims=True)
        return np.asarray(np.eye(len(self.names)) - (1 - 1 / np.sqrt(1 + self.ratio * sizes)) / sizes * shared)

    @property
    def unknown(self) -> str | None:
        """Why the scatter between architectures cannot be told from that within; None where it can."""
        counts = Counter(self.names)
        if len(counts) == 1:
            return (
                "all runs are of one architecture: how far another one would be from the law cannot be told; "
                "runs of a second one would tell"
            )
        if max(counts.values()) == 1:
            return (
                "every architecture has one run: scatter between architectures cannot be told from noise, and counts "
                "as noise; a second run of some would tell"
            )
        return None


def same(names: Sequence[str | None], others: Sequence[str | None] | None = None) -> Floats:
    """Ones (m, n) where names are equal to others (by default to themselves), else zeros."""
    columns = names if others is None else others
    codes = {name: code for code, name in enumerate(dict.fromkeys([*names, *columns]))}
    rows, across = (np.array([codes[name] for name in labels]) for labels in (names, columns))
    return np.asarray(rows[:, None] == across[None, :], dtype=np.float64)


@dataclass(frozen=True)
class Mixture:
    """Student's t with one centre and scale for each ratio and place."""

    odds: Floats  # (K,), sum 1
    centres: Floats  # (K, m)
    scales: Floats  # (K, m)
    freedom: float

    @property
    def centre(self) -> Floats:
        """(m,)"""
        return np.asarray(self.odds @ self.centres)

    def half_width(self, confidence: float) -> Floats:
        """How far from `centre` the interval with equal ends reaches at each place (m,)."""
        from scipy.special import stdtr

        shift = self.centres - self.centre
        low, high = np.zeros(shift.shape[1]), np.full(shift.shape[1], 1.0)
        outer = self.scales.max(axis=0) + np.abs(shift).max(axis=0)

        def outside(half: Floats) -> Floats:
            tails = (stdtr(self.freedom, -(half + sign * shift) / self.scales) for sign in (-1, 1))
            return np.asarray(self.odds @ sum(tails))

        while (wide := outside(high * outer) > 1 - confidence).any():
            high = np.where(wide, 2 * high, high)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            beyond = outside(middle * outer) > 1 - confidence
            low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
        return np.asarray(high * outer)


@dataclass(frozen=True)
class Deviation:
    """Standard deviations of runs about a law, in its space: between architectures with its interval, and within."""

    between: float
    low: float
    high: float
    within: float
    architectures: int

    def describe(self, confidence: float) -> str:
        """Both in words."""
        ends = f"{confidence:.0%} interval {self.low:.3g} to {self.high:.3g}"
        return (
            f"standard deviations in the fitted space: between {self.architectures} architectures {self.between:.3g} "
            f"({ends}), within them {self.within:.3g}"
        )


@dataclass(frozen=True)
class MixedFit:
    """Generalised least squares at each ratio that has odds. The first grouping is that of architectures."""

    odds: Floats  # (K,), sum 1
    ratios: Floats  # (K, groupings)
    coefficients: Floats  # (K, p)
    covariance: Floats  # (K, p, p) of the coefficients, in variances within
    among: Floats  # (K, n, n) covariance of the points, in variances within
    within: Floats  # (K,) standard deviation
    freedom: float
    names: tuple[str, ...]  # architecture of each point

    @property
    def ratio(self) -> float:
        """Of the variances between and within, at their mean deviations."""
        return float((self.odds @ np.sqrt(self.ratios[:, 0])) ** 2)

    def contrast(self, weights: Floats) -> Mixture:
        """Combinations of the coefficients, one for each row of weights (m, p)."""
        variance = np.einsum("mp,kpq,mq->km", weights, self.covariance, weights)
        return self._mixture(self.coefficients @ weights.T, variance)

    def level(self, names: Sequence[str | None]) -> Floats:
        """What gives an architecture's level when applied to residuals (n,): (m, n), zeros for a new one (None)."""
        shared = self.ratio * same(names, self.names)  # no point is named None
        return np.asarray(shared @ np.linalg.inv(np.eye(len(self.names)) + self.ratio * same(self.names)))

    def errors(self, predictor: Floats, names: Sequence[str | None]) -> Mixture:
        """Errors of runs that are predicted as `predictor` (m, n) applied to the targets.

        The runs are of known architectures by name, or of new ones (None). The predictor reproduces the law.
        """
        within = 1 + self.ratios.sum(axis=1)[:, None]
        shared = self.ratios[:, :1] * np.sum(predictor * same(names, self.names), axis=1)  # (K, m)
        spread = np.einsum("mi,kij,mj->km", predictor, self.among, predictor)
        return self._mixture(np.zeros((len(self.odds), len(predictor))), within - 2 * shared + spread)

    def deviation(self, confidence: float) -> Deviation:
        """Both standard deviations; an end of the interval between architectures may be 0."""
        from scipy.special import chdtr

        between = np.sqrt(self.ratios[:, 0]) * self.within
        squares = self.freedom * between**2
        tail = (1 - confidence) / 2

        def below(value: float) -> float:  # the odds that the deviation is no larger
            return float(self.odds @ (1 - chdtr(self.freedom, squares / value**2)))

        ends = [_crossing(below, share, float(between.max())) for share in (tail, 1 - tail)]
        mean = [float(self.odds @ deviation) for deviation in (between, self.within)]
        return Deviation(mean[0], ends[0], ends[1], mean[1], len(set(self.names)))

    def draws(self, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Coefficients (count, p), and the residual (count,) of a run of a new architecture with each."""
        which = rng.choice(len(self.odds), size=count, p=self.odds)
        scale = self.within[which] * np.sqrt(self.freedom / rng.chisquare(self.freedom, size=count))
        roots = np.linalg.cholesky(self.covariance)[which]  # (count, p, p)
        normal = rng.normal(size=(count, self.coefficients.shape[1], 1))
        coefficients = self.coefficients[which] + scale[:, None] * (roots @ normal)[..., 0]
        own = np.sqrt(1 + self.ratios.sum(axis=1))[which]
        return coefficients, scale * own * rng.normal(size=count)

    def _mixture(self, centres: Floats, variance: Floats) -> Mixture:
        scales = self.within[:, None] * np.sqrt(np.maximum(variance, 0.0))
        return Mixture(self.odds, centres, np.maximum(scales, np.finfo(float).tiny), self.freedom)


def mixed_fit(
    targets: Floats, design: Floats, names: Sequence[str], nested: Sequence[str] | None = None, *,
    precision: Floats | None = None, believed: Floats | None = None,
) -> MixedFit:  # fmt: skip
    """Fit a linear model whose residuals share a level by architecture.

    Args:
        targets: (n,)
        design: (n, p)
        names: architecture of each point (n,).
        nested: a second grouping with a level of its own (n,), such as the trunk of each branch.
        precision: (p,) of a Gaussian prior for each coefficient, in inverse variances within; 0 for none.
        believed: (p,) means of that prior; default: 0.

    Raises:
        ValueError: no residuals are left to judge by (n is not larger than p), or there are more than 1,000 points.
    """
    (n, p), groupings = design.shape, [names] if nested is None else [names, nested]
    if n > MOST:
        raise ValueError(f"{n} points; levels of architectures are fitted to at most {MOST}: keep the last of each run")
    penalty = np.zeros(p) if precision is None else precision
    mean = np.zeros(p) if believed is None else believed
    square = design.T @ design
    freedom = n - float(np.trace(np.linalg.pinv(square + np.diag(penalty)) @ square))
    if freedom < 1 - 1e-9:
        raise ValueError(f"{n} points leave no residuals to judge {p} coefficients by")
    shared, prior = [same(group) for group in groupings], _prior()
    grid = [list(places) for places in product(range(len(RATIOS)), repeat=len(groupings))]
    fits = [_at_ratio(targets, design, RATIOS[places], shared, penalty, mean, freedom) for places in grid]
    logs = np.array([fit.likelihood + np.log(prior[places]).sum() for fit, places in zip(fits, grid, strict=True)])
    odds = np.exp(logs - logs.max())
    kept = np.flatnonzero(odds > NEGLIGIBLE * odds.sum())
    return MixedFit(
        odds=odds[kept] / odds[kept].sum(),
        ratios=np.stack([RATIOS[grid[row]] for row in kept]),
        coefficients=np.stack([fits[row].coefficients for row in kept]),
        covariance=np.stack([fits[row].covariance for row in kept]),
        among=np.stack([fits[row].among for row in kept]),
        within=np.array([fits[row].within for row in kept]),
        freedom=freedom,
        names=tuple(names),
    )


def restricted_likelihood(targets: Floats, design: Floats, names: Sequence[str], ratio: float) -> float:
    """The logarithm of the restricted likelihood of a ratio, up to a constant."""
    n, p = design.shape
    return _at_ratio(
        targets, design, np.array([ratio]), [same(names)], np.zeros(p), np.zeros(p), float(n - p)
    ).likelihood


@dataclass(frozen=True)
class _AtRatio:
    """A fit at given ratios; its fields are those of `MixedFit`."""

    likelihood: float  # the logarithm of the restricted likelihood, up to a constant
    coefficients: Floats  # (p,)
    covariance: Floats  # (p, p)
    among: Floats  # (n, n)
    within: float


def _at_ratio(
    targets: Floats, design: Floats, ratios: Floats, shared: Sequence[Floats], penalty: Floats, mean: Floats,
    freedom: float,
) -> _AtRatio:  # fmt: skip
    among = np.eye(len(targets))
    for ratio, group in zip(ratios, shared, strict=True):
        among = among + ratio * group
    inverse, log_determinant = _inverse(among, ratios, shared)
    curvature = design.T @ inverse @ design + np.diag(penalty)
    unit = np.asarray(np.linalg.pinv(curvature, hermitian=True), dtype=np.float64)
    coefficients = unit @ (design.T @ inverse @ targets + penalty * mean)
    residual, distance = targets - design @ coefficients, coefficients - mean
    squares = max(float(residual @ inverse @ residual + penalty @ distance**2), np.finfo(float).tiny)
    determinants = float(log_determinant + np.linalg.slogdet(curvature)[1])
    log = -0.5 * (determinants + freedom * np.log(squares))
    return _AtRatio(float(log), coefficients, unit, among, float(np.sqrt(squares / freedom)))


def _inverse(among: Floats, ratios: Floats, shared: Sequence[Floats]) -> tuple[Floats, float]:
    """The inverse (n, n) of the residuals' covariance, and the logarithm of its determinant.

    Under one grouping it consists of a block 1 + r J for each group of m points, whose inverse is
    1 - r / (1 + m r) J, and whose determinant is 1 + m r.
    """
    if len(shared) > 1:
        return np.asarray(np.linalg.inv(among), dtype=np.float64), float(np.linalg.slogdet(among)[1])
    (ratio,), (group,) = ratios, shared
    points = group.sum(axis=1)  # (n,) of the group of each
    inverse = np.eye(len(among)) - (ratio / (1 + points * ratio))[:, None] * group
    return inverse, float((np.log1p(points * ratio) / points).sum())


def _prior() -> Floats:
    """Odds (K,) of each ratio before the points are seen."""
    root = np.sqrt(RATIOS[1:])
    density = root / (1 + (root / CAUCHY) ** 2)  # of the logarithm of a half-Cauchy variable
    return np.append(NO_SCATTER, (1 - NO_SCATTER) * density / density.sum())


def _crossing(below: Callable[[float], float], share: float, largest: float) -> float:
    """Where odds that grow with a deviation reach a share; 0 where they do so at once."""
    from scipy.optimize import brentq

    if largest <= 0 or below(1e-6 * largest) >= share:
        return 0.0
    high = largest
    while below(high) < share:
        high *= 2
    return float(brentq(lambda value: below(value) - share, 1e-6 * largest, high))
