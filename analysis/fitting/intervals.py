"""Prediction intervals: how far a law may be off, by the fit itself and by past errors of such fits.

A bootstrap of the parameters alone is far too narrow out of sample. The scale here combines noise, resampled fits of
several laws, and the error of the same law when its last points are held out (rolling origin); a factor calibrated on
other tasks (conformal) then makes the stated share of new points fall inside.

Legend: n points, d inputs, m places, K resamples, p parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.arrays import Floats
from analysis.fitting import averages
from analysis.fitting.annealing import bends_down
from analysis.fitting.estimate import Average, Fitted, Points, fit_law, log_compute
from analysis.fitting.least_squares import solve
from analysis.fitting.variance_components import MixedFit, mixed_fit
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric

RESAMPLES = 200
CORRELATED = 0.3  # lag-1 correlation of residuals from which checkpoints are drawn in blocks
WIDEST = 10.0  # times what the points span: an interval that is wider says nothing
EXACT = 1e-3  # of what the points span: what a law through every point may still be off
THINNEST, TINY = 1e-6, 1e-300  # width of an interval relative to its ends, and of one at 0
NEAREST = 0.05  # least reach of a rolling error, in logs
ORIGINS = (0.5, 0.65, 0.8)  # shares of the points, in order of x, from which the rest is predicted


@dataclass(frozen=True)
class Rolling:
    """How well the law predicted its own last points."""

    error: float  # root mean square, in the law's space; NaN where there were too few points
    reach: float  # mean log distance that was predicted
    origins: int
    kind: str = "loss"  # of fit, for its calibration


def resample_weights(points: Points, residual: Floats, count: int, rng: np.random.Generator) -> Floats:
    """How often each point is drawn (K, n).

    Architectures or runs that are named are drawn whole, checkpoints whose residuals correlate in blocks.
    """
    n = len(points)
    together = points.levels.names if points.levels else points.runs
    if together:
        codes = np.unique([str(run) for run in together], return_inverse=True)[1]
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
    drawn = replace(problem, inputs=inputs, weights=weights)
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
    kind = kind_of(points, metric, name)
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
        return Rolling(float("nan"), float("nan"), 0, kind)
    mean_square = np.mean([np.mean(np.square(error)) for error in errors])
    return Rolling(float(np.sqrt(mean_square)), float(np.mean([np.mean(r) for r in reaches])), len(errors), kind)


CONFIDENCES = (0.5, 0.68, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Calibration:
    """How a kind of fit's scale is made of its parts, and the quantiles of |error| over scale for new points.

    Chosen for the least interval score (Gneiting and Raftery 2007) on the data of docs/laws.md, every curve counting
    as one. Residuals are smaller than noise: `freedom` parameters are allowed for.
    """

    noise: float
    spread: float
    rolling: float
    freedom: float
    factors: tuple[float, ...]  # one for each of CONFIDENCES


CALIBRATIONS = {
    "loss": Calibration(2.0, 1.0, 0.2, 2.5, (0.458, 0.761, 1.060, 1.480, 2.018, 3.092)),
    "share": Calibration(2.0, 1.0, 0.2, 2.5, (0.314, 0.467, 0.590, 0.945, 1.299, 2.000)),
    "learning_curve": Calibration(2.0, 0.5, 0.5, 2.5, (0.639, 0.996, 1.311, 1.763, 2.193, 3.184)),
    # a learning curve whose learning rate decays before its end: what decay still gains is not in the points
    "decaying": Calibration(2.0, 0.5, 0.5, 2.5, (0.7, 1.2, 1.7, 2.3, 3.0, 4.3)),
    "joint": Calibration(2.0, 1.0, 1.0, 5.0, (0.448, 0.679, 0.893, 1.153, 1.428, 2.079)),
    # unique data and data seen told apart
    "repeats": Calibration(2.0, 1.0, 1.0, 5.0, (0.231, 0.363, 0.508, 0.696, 0.897, 1.408)),
}
STRETCH = 0.5  # growth of the noise's variance as a new point is farther, as a share of the points' own range, in logs
SHORTEST = 0.7  # natural logs: a range below it counts as this
SCARCE, SCARCER = 6, 1.5  # with fewer points, the scale itself is uncertain: intervals are wider by this factor
# For curves too short for a rolling error: multiples of the noise, and of the gap to a law without a plateau.
UNTRIED, UNTRIED_FORM = 2.0, 0.7


def kind_of(points: Points, metric: Metric, name: str) -> str:
    """Which calibration holds: joint laws, without or with repeats; learning curves, shares, or losses."""
    if points.x.shape[1] > 1:
        return "joint" if points.x.shape[1] == averages.JOINT_INPUTS else "repeats"
    if points.decaying or (name == "learning_curve" and bends_down(points, metric)):
        return "decaying"
    return name if name in CALIBRATIONS else "share" if metric.kind == "share" else "loss"


@dataclass(frozen=True)
class Scale:
    """The parts of a law's uncertainty at places, in its space, each as it enters the interval.

    Where architectures are told, noise is between and within them, and `far` has the law's own uncertainty too.
    """

    residual: float  # root mean square of the points about the law
    noise: float  # of a new point about it
    far: Floats  # (m,) its growth with the distance
    spread: Floats  # (m,) of resampled and differing laws
    rolling: Floats  # (m,) rolling error, grown with the distance
    calibrated: float  # factor of the confidence
    level: Floats | float = 0.0  # (m,) of a known architecture at each place, above the law

    @property
    def half_width(self) -> Floats:
        """Of the interval of a new point at each place (m,)."""
        total: Floats = self.calibrated * np.sqrt((self.noise * self.far) ** 2 + self.spread**2 + self.rolling**2)
        return total

    def split(self, count: int) -> tuple[Scale, Scale]:
        """The scale at the first places, and at the others."""
        level = np.broadcast_to(self.level, self.far.shape)
        return tuple(
            replace(self, far=self.far[part], spread=self.spread[part], rolling=self.rolling[part], level=level[part])
            for part in (slice(count), slice(count, None))
        )  # type: ignore[return-value]


def factor(confidence: float, kind: str = "loss") -> float:
    """The calibrated factor of a confidence between 0.5 and 0.99, for a kind of fit.

    Raises:
        ValueError: the confidence is outside this range.
    """
    if not CONFIDENCES[0] <= confidence <= CONFIDENCES[-1]:
        raise ValueError(
            f"confidence {confidence:g} is not calibrated; between {CONFIDENCES[0]} and {CONFIDENCES[-1]} is"
        )
    return float(np.interp(confidence, CONFIDENCES, CALIBRATIONS[kind].factors))


def scale_at(
    law: Average, points: Points, x: Floats, rolling: Rolling, *, confidence: float = 0.9, count: int = RESAMPLES,
    architectures: Sequence[str | None] | None = None,
) -> Scale:  # fmt: skip
    """How far the metric may be from the law at places x (m, d).

    Args:
        architectures: of the run at each place, where points have levels; None is a new one. Default: all are new.
    """
    if points.levels:
        names = [None] * len(x) if architectures is None else architectures
        return _with_levels(law, points, x, rolling, confidence, names)
    use, n = CALIBRATIONS[rolling.kind], len(points)
    residual = float(np.sqrt(np.sum(law.shares * [member.residual**2 for member in law.members])))
    draws = spread(law, points, x, count)
    draws = draws[np.isfinite(draws).all(axis=1)]
    error = np.full(len(x), use.rolling * rolling.error if rolling.origins else UNTRIED * residual)
    if not rolling.origins and law.space == "log" and points.x.shape[1] == 1:
        bare = fit_law(named_law("power_law"), points, law.metric)
        error = np.hypot(error, UNTRIED_FORM * (bare.log_or_linear(x) - law.log_or_linear(x)))
    beyond = points.beyond(x)
    grown = error * _growth(beyond, rolling)
    noise = residual * use.noise * float(np.sqrt(n / max(n - use.freedom, 1.0)))
    far = np.sqrt(1 + STRETCH * beyond / max(float(np.ptp(log_compute(points.x))), SHORTEST))
    calibrated = factor(confidence, rolling.kind) * (SCARCER if n < SCARCE else 1.0)
    return Scale(residual, max(noise, _exact(law, points)), far, use.spread * draws.std(axis=0), grown, calibrated)


def mixed_about(law: Average, points: Points) -> MixedFit:
    """Variance components about a law: of its member with the largest share, linearised where it was fitted."""
    if points.levels is None:
        raise ValueError("the points have no architectures")
    member = law.members[int(np.argmax(law.shares))]
    residual = law.metric.to_space(points.y, law.space) - member.log_or_linear(points.x)
    prior = member.problem.prior
    beliefs = {} if prior is None else {
        "precision": prior.precision[0] * member.coordinates.z_scale**2, "believed": prior.mean[0] - member.theta,
    }  # fmt: skip
    return mixed_fit(residual, member.sensitivity(points.x), points.levels.names, **beliefs)


def _with_levels(
    law: Average, points: Points, x: Floats, rolling: Rolling, confidence: float, names: Sequence[str | None]
) -> Scale:
    """The scale where architectures are told: scatter and noise by the mixed model, and what they do to the law.

    The law is linear in the values of the points near them, whatever its members weigh. Other forms, and rolling errors
    beyond what noise and scatter explain, add to it.
    """
    from scipy.special import ndtri

    factor(confidence)  # refuses what is not calibrated
    mixed, normal = mixed_about(law, points), float(ndtri((1 + confidence) / 2))
    at_points, at_places = (
        sum(share * member.response(points, where) for member, share in zip(law.members, law.shares, strict=True))
        for where in (points.x, x)
    )
    level = mixed.level(names)  # (m, n)
    run = mixed.errors(at_places + level - level @ at_points, names)
    residual = law.metric.to_space(points.y, law.space) - law.log_or_linear(points.x)
    noise = max(float(mixed.odds @ (mixed.within * np.sqrt(1 + mixed.ratios[:, 0]))), _exact(law, points))
    values = np.stack([member.log_or_linear(x) for member in law.members])
    form = np.sqrt(law.shares @ (values - law.log_or_linear(x)) ** 2)
    unexplained = np.sqrt(max(rolling.error**2 - noise**2, 0.0)) if rolling.origins else 0.0
    grown = CALIBRATIONS[rolling.kind].rolling * unexplained * _growth(points.beyond(x), rolling)
    far = run.half_width(confidence) / (normal * noise)
    return Scale(noise, noise, far, form, grown, normal, level @ residual)


def _exact(law: Average, points: Points) -> float:
    """What a law through every point may still be off, in its space."""
    return EXACT * max(float(np.ptp(law.metric.to_space(points.y, law.space))), THINNEST)


def _growth(beyond: Floats, rolling: Rolling) -> Floats:
    """How much larger than at its own reach the rolling error is at a distance (m,)."""
    reach = rolling.reach if rolling.origins else np.inf
    return np.asarray(np.sqrt(np.maximum(1.0, beyond / max(reach, NEAREST))))


def interval(law: Average, x: Floats, scale: Scale) -> tuple[Floats, Floats]:
    """Ends (m,) of the metric's interval at places x (m, d), low first; never of no width."""
    centre = law.log_or_linear(x) + scale.level
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
