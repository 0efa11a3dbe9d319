"""Fit one curve: law, predictions, parameters, error on held-out rows, and the checklist.

Legend: n points, d inputs, m places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.arrays import Floats
from analysis.fitting import averages, checklist, intervals
from analysis.fitting.estimate import Average, Factors, Fitted, Points, fit_law, log_compute
from analysis.fitting.intervals import Scale
from analysis.fitting.parameters import Parameter, parameters
from analysis.fitting.variance_components import Deviation
from analysis.laws.metric import Metric

MOST_SAID = 1e4  # a larger number says no more
ROUNDS = 2  # of fitting a law and the ratio of its variances in turn


@dataclass(frozen=True)
class Prediction:
    """The metric at one place, and where a new point is expected with the stated confidence."""

    x: tuple[float, ...]
    y: float
    low: float
    high: float
    cannot_tell: str | None = None  # why the interval says nothing, where it spans far more than the points do
    run_of: str | None = None  # which architecture's run is predicted, where architectures are told


@dataclass(frozen=True)
class HeldOut:
    """How the law did on rows that it did not see."""

    n: int
    rmse_log: float  # of log y, or of log(1 - y) for a share; NaN where y is not positive
    rmse: float
    worst: float  # largest absolute error
    coverage: float  # share of rows inside their interval


@dataclass(frozen=True)
class FittedCurve:
    """Everything about one curve's fit."""

    law: Average
    name: str  # as requested
    points: Points
    predictions: tuple[Prediction, ...]
    parameters: tuple[Parameter, ...]
    parameters_of: str
    held_out: HeldOut | None
    checks: tuple[checklist.Check, ...]
    scale: Scale
    rolling: intervals.Rolling
    scatter: Deviation | None = None  # between and within architectures, where it can be told

    def band(self, x: Floats, confidence: float = 0.9) -> tuple[Floats, Floats, Floats]:
        """Law and interval of a new point at places x (m, d): centre, low, high, all (m,)."""
        scale = intervals.scale_at(self.law, self.points, x, self.rolling, confidence=confidence)
        low, high = intervals.interval(self.law, x, scale)
        return self.law.predict(x), low, high


@dataclass(frozen=True)
class Law:
    """A fitted law with what its intervals need, and without parameters and checks."""

    average: Average
    points: Points
    rolling: intervals.Rolling

    @classmethod
    def of(cls, points: Points, metric: Metric, law: str = "auto") -> Law:
        """Fit a law by name, or one of the averages.

        Raises:
            ValueError: as `averages.fit`.
        """
        return cls(averages.fit(points, metric, law), points, intervals.rolling_origin(points, metric, law))

    def predict(self, place: Floats, confidence: float = 0.9) -> Prediction:
        """The metric of a new run at one place (1, d)."""
        scale = intervals.scale_at(self.average, self.points, place, self.rolling, confidence=confidence)
        return _predictions(self.average, self.points, place, scale)[0]


def fit_points(
    points: Points,
    metric: Metric,
    law: str = "auto",
    *,
    targets: Floats | None = None,
    architecture: str | None = None,
    held_out: Points | None = None,
    factors: Factors | None = None,
    confidence: float = 0.9,
    notes: Sequence[str] = (),
    metric_note: str | None = None,
) -> FittedCurve:
    """Fit one curve, with intervals and checks.

    Args:
        points: the runs.
        metric: what kind of number y is.
        law: an average (`auto`, `learning_curve`) or a law's name.
        targets: (m, d) places to predict; without them the checks use twice the largest x.
        architecture: whose runs to predict there, where points have architectures; None: those of a new one.
        held_out: rows to score the law on.
        factors: the two factors behind x, for the two-factor check.
        confidence: of every interval.
        notes: what was left out of the points, for the checklist.
        metric_note: what is doubtful of the metric's kind.

    Raises:
        ValueError: too few points, an unknown law, a law with another number of inputs, or a confidence that is not
            calibrated.
    """
    told = points.levels
    points, fitted = _with_scatter(points, metric, law)
    rolling = intervals.rolling_origin(points, metric, law)
    requested = np.empty((0, points.x.shape[1])) if targets is None else targets
    places = requested if len(requested) else points.x.max(axis=0)[None] * 2
    unseen = held_out if held_out is not None and len(held_out) else None
    everywhere = places if unseen is None else np.concatenate([places, unseen.x])
    names = [architecture] * len(places) + ([] if unseen is None else _architectures(unseen))
    scale = intervals.scale_at(fitted, points, everywhere, rolling, confidence=confidence, architectures=names)
    at_places, at_unseen = scale.split(len(places))
    lead = _lead(fitted, points, metric, law)
    numbers = parameters(lead, points, confidence)
    last = int(np.argmax(log_compute(places)))
    predictions = _predictions(fitted, points, requested, at_places, architecture) if len(requested) else ()
    scatter = intervals.mixed_about(fitted, points).deviation(confidence) if points.levels else None
    checks = checklist.checklist(
        fitted,
        points,
        scale=at_places,
        rolling=rolling,
        influential=checklist.influence(fitted, points, places[last], float(at_places.half_width[last])),
        parameters=numbers,
        factors=_two_factors(points, metric, fitted.space, factors),
        target=places[last],
        notes=notes,
        metric_note=metric_note,
        architectures=scatter.describe(confidence) if scatter else told.unknown if told else None,
        cannot_tell=[prediction.cannot_tell for prediction in predictions if prediction.cannot_tell],
    )
    return FittedCurve(
        law=fitted,
        name=law,
        points=points,
        predictions=predictions,
        parameters=tuple(numbers),
        parameters_of=f"{lead.law.name}: {lead.law.equation}",
        held_out=None if unseen is None else _score(fitted, unseen, at_unseen),
        checks=tuple(checks),
        scale=scale,
        rolling=rolling,
        scatter=scatter,
    )


def _with_scatter(points: Points, metric: Metric, law: str) -> tuple[Points, Average]:
    """A law fitted by generalised least squares where the scatter between architectures can be told; else plainly."""
    if points.levels is None or points.levels.unknown:
        points = replace(points, levels=None)
        return points, averages.fit(points, metric, law)
    fitted = averages.fit(points, metric, law)
    for _ in range(ROUNDS):
        ratio = intervals.mixed_about(fitted, points).ratio
        points = replace(points, levels=replace(points.levels, ratio=ratio))
        fitted = averages.fit(points, metric, law)
    return points, fitted


def _architectures(points: Points) -> list[str | None]:
    return list(points.levels.names) if points.levels else [None] * len(points)


def _lead(fitted: Average, points: Points, metric: Metric, law: str) -> Fitted:
    """The law whose parameters are reported: of an average its first form, fitted by itself with a weak belief."""
    first = fitted.members[0]
    return fit_law(first.law, points, metric) if law in averages.EXPERIENCE and first.law.inputs == 1 else first


def _predictions(
    law: Average, points: Points, places: Floats, scale: Scale, architecture: str | None = None
) -> tuple[Prediction, ...]:
    low, high = intervals.interval(law, places, scale)
    spans = intervals.spans(law, points, places, scale)
    centre = law.metric.within(law.metric.from_space(law.log_or_linear(places) + scale.level, law.space))
    whose = "a new architecture" if architecture is None else f"architecture {architecture}"
    run_of = whose if points.levels else None
    found = []
    for x, y, ends, span in zip(places, centre, zip(low, high, strict=True), spans, strict=True):
        place = tuple(map(float, x))
        doubt = _cannot_tell(place, float(span)) if span > intervals.WIDEST else None
        found.append(Prediction(place, float(y), float(ends[0]), float(ends[1]), doubt, run_of))
    return tuple(found)


def _cannot_tell(place: tuple[float, ...], span: float) -> str:
    where = ", ".join(f"{x:.4g}" for x in place)
    times = f"{span:.0f} times" if span < MOST_SAID else f"more than {MOST_SAID:g} times"
    return f"cannot tell: at {where} the interval spans {times} what the points do; points nearer to it would tell"


def _two_factors(points: Points, metric: Metric, space: str, factors: Factors | None) -> checklist.TwoFactors | None:
    if factors is not None:
        return checklist.two_factors(factors.names, factors.values, metric.to_space(points.y, space))
    if points.x.shape[1] == 1:
        return None
    return checklist.two_factors(("model size", "data"), points.x[:, [0, -1]], metric.to_space(points.y, space))


def _score(law: Average, held_out: Points, scale: Scale) -> HeldOut:
    predicted = law.metric.within(law.metric.from_space(law.log_or_linear(held_out.x) + scale.level, law.space))
    error = predicted - held_out.y
    low, high = intervals.interval(law, held_out.x, scale)
    with np.errstate(all="ignore"):  # a share at its bound has no logarithm
        gap = law.metric.to_space(held_out.y, "log") - law.metric.to_space(predicted, "log")
    signed = law.metric.kind == "score" and min(held_out.y.min(), predicted.min()) <= 0
    gap = gap[np.isfinite(gap) & (not signed)]
    logs = float(np.sqrt(np.mean(gap**2))) if gap.size else float("nan")
    inside = (low <= held_out.y) & (held_out.y <= high)
    return HeldOut(
        len(held_out), logs, float(np.sqrt(np.mean(error**2))), float(np.abs(error).max()), float(inside.mean())
    )
