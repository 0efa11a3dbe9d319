"""Laws that the finished runs do not exclude, and what further runs would say of a target if each of them were true.

A law is fitted to what was run, so resampled fits vary only as far as those runs tell: from neighbouring runs they know
nothing of a plateau or of an exponent that changes. Here laws are laid out on a grid of exponents and plateaus. Each is
weighed by how well it fits, and is linearised in its level, its plateau, its exponent and in breaks: changes of the
exponent at every decade. The target's deviation under each law follows in closed form, and their geometric mean is what
a choice of runs should make small, so that no law that may be true is left out (pseudo-Bayesian design: Chaloner and
Verdinelli 1995).

Legend: T laws, K studies, n points, m places, p parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from analysis.arrays import Floats
from analysis.fitting import averages
from analysis.fitting.estimate import Points
from analysis.laws.forms import softplus
from analysis.laws.metric import Metric

EXPONENTS = np.geomspace(0.04, 1.0, 9)
PLATEAUS = (0.01, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)  # of what the law gives at the largest x of the points
PLATEAU_SD, EXPONENT_SD, LEVEL_SD = 0.7, 0.8, 100.0  # of logarithms; published exponents vary so much (`averages`)
BREAK = 0.4  # deviation of the exponent's change in a decade, as a share of the exponent
EVERY, SOFT = np.log(10), 0.5  # distance of breaks, and how far each of them reaches, in logs
SMOOTH = 3  # parameters before the breaks
FREEDOM, TEMPER = 4.0, 4.0  # of the likelihood, whose noise is known from few points
LEAST_WEIGHT = 1e-3  # of a law's even share
UNKNOWN_NOISE, LEAST_NOISE = 1e-4, 1e-6  # variance in logs: of too few points to tell, and at least
LEAST_RANGE = 1e-3  # noise of a metric without logarithms, at least, as a share of what the points span


@dataclass(frozen=True)
class Unsettled:
    """What the finished runs leave open: the middle 90% of the plausible laws."""

    exponent: tuple[float, float]
    plateau: tuple[float, float] | None  # as a share of the law's value at the largest run; None for a score


@dataclass(frozen=True)
class Plausible:
    """Plausible laws, linearised at places and at the target, with what is known of their parameters."""

    curves: Floats  # (T, m + 1) each law at the places and the target, in its space
    slopes: Floats  # (T, m, p) derivatives by the parameters at the places
    target: Floats  # (T, p)
    covariance: Floats  # (T, p, p)
    weights: Floats  # (T,) sum 1
    noise: float  # variance of one run
    unsettled: Unsettled

    @classmethod
    def of(cls, points: Points, metric: Metric, places: Floats, target: float, *, breaks: float = BREAK) -> Plausible:
        """The laws after the finished runs.

        Args:
            points: the finished runs (n), over one input.
            metric: its kind; a loss or a share in the log of its distance from the bound, a score as it is.
            places: (m,) x of the runs that could be done.
            target: x at which the prediction should be narrow.
            breaks: deviation of the exponent's change in a decade, as a share of the exponent.
        """
        n, u = len(points), np.log(np.concatenate([points.x[:, 0], places, [target]]))
        trials = list(_of_score(points, u) if metric.kind == "score" else _of_logarithm(points, metric, u))
        slopes = np.stack([trial.slopes for trial in trials])
        slopes[..., SMOOTH:] *= breaks
        misfit = np.array([trial.misfit for trial in trials])
        noise = _noise(points, metric, float(misfit.min()))
        odds = -0.5 * (FREEDOM + n) * np.log1p(misfit / (noise * FREEDOM * TEMPER))
        weights = np.exp(odds - odds.max())
        kept = weights > LEAST_WEIGHT * weights.mean()
        slopes, weights = slopes[kept], weights[kept] / weights[kept].sum()
        precision = np.einsum("tni,tnj->tij", slopes[:, :n], slopes[:, :n]) / noise
        precision += np.diag(1 / np.square(np.concatenate([trials[0].prior, np.ones(slopes.shape[2] - SMOOTH)])))
        laws = [trial for trial, keep in zip(trials, kept, strict=True) if keep]
        curves = np.stack([law.curve[n:] for law in laws])
        left = _unsettled(laws, weights)
        return cls(curves, slopes[:, n:-1], slopes[:, -1], np.linalg.inv(precision), weights, noise, left)

    @property
    def deviation(self) -> float:
        """Standard deviation of the target, the geometric mean over the laws."""
        return float(self._mean(self._variance[:, None])[0])

    @property
    def _variance(self) -> Floats:
        """The target's variance under each law (T,)."""
        return np.asarray(np.einsum("ti,tij,tj->t", self.target, self.covariance, self.target))

    def _mean(self, variance: Floats) -> Floats:
        """Deviations (m,) from variances (T, m)."""
        return np.asarray(np.exp(0.5 * self.weights @ np.log(np.maximum(variance, 1e-300))))

    def gains(self) -> Floats:
        """How much a run at each place would reduce the target's deviation (m,)."""
        known = np.einsum("tij,tmj->tmi", self.covariance, self.slopes)
        shared = np.einsum("tmi,ti->tm", known, self.target)
        own = np.einsum("tmi,tmi->tm", known, self.slopes)
        before = self._variance[:, None]
        return np.asarray(self.deviation - self._mean(before - shared**2 / (own + self.noise)))

    def after(self, index: int) -> Plausible:
        """The laws once a run at a place has been seen, whatever it will show."""
        slope = self.slopes[:, index]
        column = np.einsum("tij,tj->ti", self.covariance, slope)
        own = np.einsum("ti,ti->t", column, slope) + self.noise
        update = np.einsum("ti,tj->tij", column, column) / own[:, None, None]
        return replace(self, covariance=self.covariance - update)

    def studies(self, count: int, seed: int = 0) -> tuple[Floats, Floats]:
        """Studies simulated under laws drawn by weight: what the runs at the places show (K, m), the target (K,)."""
        rng, shown, truth = np.random.default_rng(seed), list[Floats](), list[float]()
        drawn = np.searchsorted(np.cumsum(self.weights), (np.arange(count) + 0.5) / count)
        for law in np.minimum(drawn, len(self.weights) - 1):
            away = rng.multivariate_normal(np.zeros(self.target.shape[1]), self.covariance[law], method="eigh")
            values = self.curves[law] + np.vstack([self.slopes[law], self.target[law]]) @ away
            shown.append(values[:-1] + np.sqrt(self.noise) * rng.normal(size=len(values) - 1))
            truth.append(float(values[-1]))
        return np.array(shown), np.array(truth)


@dataclass(frozen=True)
class _Trial:
    """One law of the grid."""

    exponent: float
    plateau: float | None
    curve: Floats  # (n + m + 1,)
    slopes: Floats  # (n + m + 1, p) by level or plateau, fall, log exponent, breaks
    prior: Floats  # (3,) deviations of the first three
    misfit: float  # sum of squared residuals of the points


def _of_logarithm(points: Points, metric: Metric, u: Floats) -> Iterator[_Trial]:
    """log y = log(E + B x^-c) at places u, of which the points are the first; its level is fitted."""
    z, n = metric.to_space(points.y, "log"), len(points)
    prior = np.array([PLATEAU_SD, LEVEL_SD, EXPONENT_SD])
    beyond = u - u[:n].max()
    for exponent, plateau in product(EXPONENTS.tolist(), PLATEAUS):
        fall = (1 - plateau) * np.exp(-exponent * beyond)
        y = plateau + fall
        residual = z - np.log(y[:n])
        curve = np.log(y) + residual.mean()
        slopes = [plateau / y, fall / y, -exponent * beyond * fall / y, *_breaks(u, exponent * fall / y)]
        misfit = float(np.sum((residual - residual.mean()) ** 2))
        yield _Trial(exponent, plateau, curve, np.stack(slopes, axis=1), prior, misfit)


def _of_score(points: Points, u: Floats) -> Iterator[_Trial]:
    """y = C - B x^-c, with C and B fitted for each exponent; the least exponent is nearly a line in log x."""
    n = len(points)
    beyond = u - u[:n].max()
    for exponent in EXPONENTS.tolist():
        fall = np.exp(-exponent * beyond)
        design = np.stack([np.ones(n), fall[:n]], axis=1)
        coefficients = np.linalg.lstsq(design, points.y, rcond=None)[0]
        residual, factor = points.y - design @ coefficients, coefficients[1]
        wide = LEVEL_SD * max(float(np.ptp(points.y)), 1e-12)
        slopes = [np.ones_like(u), fall, -factor * exponent * beyond * fall, *_breaks(u, factor * exponent * fall)]
        prior = np.array([wide, wide, EXPONENT_SD])
        curve = coefficients[0] + factor * fall
        yield _Trial(exponent, None, curve, np.stack(slopes, axis=1), prior, float(np.sum(residual**2)))


def _breaks(u: Floats, slope: Floats) -> list[Floats]:
    """Derivatives by changes of the exponent at every decade, as shares of it; the law's slope is given (m,)."""
    knots = np.arange(u.min() + EVERY / 2, u.max(), EVERY)
    return [-slope * SOFT * softplus((u - knot) / SOFT) for knot in knots]


def _noise(points: Points, metric: Metric, misfit: float) -> float:
    """Variance of one run: that of neighbours, and at least the misfit of the best law."""
    left = misfit / max(len(points) - 1, 1)
    if metric.kind == "score":
        return max(left, (LEAST_RANGE * float(np.ptp(points.y))) ** 2, 1e-300)
    near = averages.noise_variance(points, metric)
    return max(left, near if np.isfinite(near) else UNKNOWN_NOISE, LEAST_NOISE)


def _unsettled(laws: list[_Trial], weights: Floats) -> Unsettled:
    exponent = _middle(np.array([law.exponent for law in laws]), weights)
    plateaus = [law.plateau for law in laws if law.plateau is not None]
    return Unsettled(exponent, _middle(np.array(plateaus), weights) if plateaus else None)


def _middle(values: Floats, weights: Floats) -> tuple[float, float]:
    """The middle 90% of weighted values."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    low, high = (int(np.searchsorted(reached, share)) for share in (0.05, 0.95))
    return float(values[order[low]]), float(values[order[min(high, len(values) - 1)]])
