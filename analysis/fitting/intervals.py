"""Prediction intervals: how far a law may be off, by the fit itself and by past errors of such fits.

A bootstrap of the parameters alone is far too narrow out of sample. The scale here combines noise, resampled fits of
several laws, and the error of the same law when its last points are held out (rolling origin); a factor calibrated on
other tasks (conformal) then makes the stated share of new points fall inside.

Legend: n points, d inputs, m places, K resamples, p parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.arrays import Floats
from analysis.fitting import averages
from analysis.fitting.estimate import Average, Fitted, Points, fit_law
from analysis.fitting.least_squares import Problem, solve
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric

RESAMPLES = 200
CORRELATED = 0.3  # lag-1 correlation of residuals from which checkpoints are drawn in blocks
WIDEST = 10.0  # times what the points span: an interval that is wider says nothing
EXACT = 1e-3  # of what the points span: what a law through every point may still be off
THINNEST, TINY = 1e-6, 1e-300  # width of an interval relative to its ends, and of one at 0
ORIGINS = (0.5, 0.65, 0.8)  # shares of the points, in order of x, from which the rest is predicted


@dataclass(frozen=True)
class Rolling:
    """How well the law predicted its own last points."""

    error: float  # root mean square, in the law's space; NaN where there were too few points
    reach: float  # mean log distance that was predicted
    origins: int


def resample_weights(points: Points, residual: Floats, count: int, rng: np.random.Generator) -> Floats:
    """How often each point is drawn (K, n): complete runs where runs are named, blocks where residuals correlate."""
    n = len(points)
    if points.runs:
        codes = np.unique([str(run) for run in points.runs], return_inverse=True)[1]
        runs = int(codes.max()) + 1
        drawn = rng.multinomial(runs, np.full(runs, 1 / runs), size=count)
        return drawn[:, codes].astype(np.float64)
    centred = residual - residual.mean()
    spread = float(np.sum(centred**2))
    lag = float(np.sum(centred[1:] * centred[:-1])) / spread if spread > 0 else 0.0
    length = round(n ** (1 / 3)) + 1 if n >= 20 and lag > CORRELATED else 1
    firsts = rng.integers(0, n, size=(count, -(-n // length)))
    places = (firsts[..., None] + np.arange(length)) % n
    weights = np.zeros((count, n))
    np.add.at(weights, (np.arange(count)[:, None], places.reshape(count, -1)[:, :n]), 1)
    return weights


def bootstrap(fitted: Fitted, points: Points, count: int = RESAMPLES, seed: int = 0, *, iterations: int = 30) -> Floats:
    """Parameters (K, p) of the law refitted to resampled points, starting at the fit; x is drawn between its bounds."""
    rng = np.random.default_rng(seed)
    points = points.subset(points.order)
    problem = fitted.problem
    residual = problem.targets[0] - problem.model(fitted.theta[None], problem.inputs)[0][0]
    weights = resample_weights(points, residual, count, rng) * problem.weights
    inputs = problem.inputs
    if points.x_low is not None and points.x_high is not None:
        low, high = (fitted.coordinates.inputs(end) for end in (points.x_low, points.x_high))
        inputs = low + rng.random((count, *low.shape)) * (high - low)
    drawn = Problem(problem.model, inputs, problem.targets, weights, problem.prior, problem.huber)
    return solve(
        drawn, np.repeat(fitted.theta[None], count, axis=0), iterations=iterations, tolerance=1e-4, certify=False
    ).theta


def spread(law: Average, points: Points, x: Floats, count: int = RESAMPLES, seed: int = 0) -> Floats:
    """Draws of the law at places (K, m) in its space: each member is resampled in proportion to its share."""
    drawn = []
    for index, (member, share) in enumerate(zip(law.members, law.shares, strict=True)):
        theta = bootstrap(member, points, max(20, round(count * share)), seed + index)
        drawn.append(member.log_or_linear(x, theta))
    return np.concatenate(drawn)


def rolling_origin(points: Points, metric: Metric, name: str, origins: tuple[float, ...] = ORIGINS) -> Rolling:
    """Fit the first points in order of compute, predict the rest, and measure the error.

    The form is the one that all points decide: subsets that chose their own would give errors of other spaces.
    """
    name = averages.form_for(points, metric, name)
    ordered = points.subset(points.order)
    errors, reaches = [], []
    for share in origins:
        cut = round(share * len(ordered))
        first, rest = ordered.subset(np.arange(cut)), ordered.subset(np.arange(cut, len(ordered)))
        if cut < averages.FEWEST + 1 or not len(rest):
            continue
        try:
            law = averages.fit(first, metric, name, rough=True)
        except ValueError:
            continue
        errors.append(metric.to_space(rest.y, law.space) - law.log_or_linear(rest.x))
        reaches.append(first.beyond(rest.x))
    if not errors:
        return Rolling(float("nan"), float("nan"), 0)
    mean_square = np.mean([np.mean(np.square(error)) for error in errors])
    return Rolling(float(np.sqrt(mean_square)), float(np.mean([np.mean(r) for r in reaches])), len(errors))


# Quantiles of |error| over scale for new points, with equal weight for each of the 92 curves of Alabdulmohsin et al.
# (2022). With one data set left out of this calibration, 90% intervals cover 87% of it (vision curves).
CALIBRATION = {0.5: 0.494, 0.68: 0.815, 0.8: 1.117, 0.9: 1.592, 0.95: 1.977, 0.99: 2.977}
# For curves too short for a rolling error: multiples of the noise, and of the gap to a law without a plateau.
UNTRIED, UNTRIED_FORM = 2.0, 0.7


@dataclass(frozen=True)
class Scale:
    """The parts of a law's uncertainty at places, in its space."""

    noise: float  # of a point about the law
    spread: Floats  # (m,) of resampled and differing laws
    rolling: Floats  # (m,) rolling error, grown with the distance
    calibrated: float  # factor of the confidence

    @property
    def half_width(self) -> Floats:
        """Of the interval of a new point at each place (m,)."""
        total: Floats = self.calibrated * np.sqrt(self.noise**2 + self.spread**2 + self.rolling**2)
        return total

    def split(self, count: int) -> tuple[Scale, Scale]:
        """The scale at the first places, and at the others."""
        return tuple(replace(self, spread=self.spread[part], rolling=self.rolling[part])
                     for part in (slice(count), slice(count, None)))  # type: ignore[return-value]  # fmt: skip


def factor(confidence: float) -> float:
    """The calibrated factor of a confidence between 0.5 and 0.99.

    Raises:
        ValueError: the confidence is outside this range.
    """
    known = sorted(CALIBRATION)
    if not known[0] <= confidence <= known[-1]:
        raise ValueError(f"confidence {confidence:g} is not calibrated; between {known[0]} and {known[-1]} is")
    return float(np.interp(confidence, known, [CALIBRATION[level] for level in known]))


def scale_at(
    law: Average, points: Points, x: Floats, rolling: Rolling, *, confidence: float = 0.9, count: int = RESAMPLES
) -> Scale:
    """How far the metric may be from the law at places x (m, d)."""
    noise = float(np.sqrt(np.sum(law.shares * [member.residual**2 for member in law.members])))
    draws = spread(law, points, x, count)
    draws = draws[np.isfinite(draws).all(axis=1)]
    error = np.full(len(x), rolling.error if rolling.origins else UNTRIED * noise)
    reach = rolling.reach if rolling.origins else np.inf
    if not rolling.origins and law.space == "log" and points.x.shape[1] == 1:
        bare = fit_law(named_law("power_law"), points, law.metric)
        error = np.hypot(error, UNTRIED_FORM * (bare.log_or_linear(x) - law.log_or_linear(x)))
    grown = error * np.sqrt(np.maximum(1.0, points.beyond(x) / max(reach, 0.05)))
    span = float(np.ptp(law.metric.to_space(points.y, law.space)))
    return Scale(max(noise, EXACT * span, EXACT * THINNEST), draws.std(axis=0), grown, factor(confidence))


def interval(law: Average, x: Floats, scale: Scale) -> tuple[Floats, Floats]:
    """Ends (m,) of the metric's interval at places x (m, d), low first; never of no width."""
    centre = law.log_or_linear(x)
    metric = law.metric
    ends = [metric.within(metric.from_space(centre + sign * scale.half_width, law.space)) for sign in (-1, 1)]
    low, high = np.minimum(*ends), np.maximum(*ends)
    least = THINNEST * np.maximum(np.abs(low), np.abs(high)) + TINY  # at a bound, both ends are rounded to it
    thin = high - low < least
    return np.where(thin, metric.within(low - least), low), np.where(thin, metric.within(high + least), high)


def spans(law: Average, points: Points, x: Floats, scale: Scale) -> Floats:
    """How many times what the points span the intervals at places x (m, d) do (m,), in the metric or the law's space.

    Infinite where the points do not vary.
    """
    low, high = interval(law, x, scale)
    varied = float(np.ptp(points.y)), float(np.ptp(law.metric.to_space(points.y, law.space)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios = np.divide(high - low, varied[0]), np.divide(2 * scale.half_width, varied[1])
    return np.asarray(np.nan_to_num(np.maximum(*ratios), nan=np.inf))
