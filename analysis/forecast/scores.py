"""How forecasts did: the error of each, whether the outcome lies inside its interval, and coverage so far by metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """A forecast of one metric of one run, with the outcome once it is known.

    Attributes:
        forecast: its number; those of a study count from 1.
        value, low, high: None where it could not be told.
        measured: None while the run is not done.
        note: why it could not be told, or why it is not scored.
    """

    forecast: int
    time: str
    cell: str
    metric: str
    confidence: float
    value: float | None
    low: float | None
    high: float | None
    measured: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Scored:
    """A prediction with its score, and how the predictions of its metric have done up to this one."""

    prediction: Prediction
    error: float | None = None  # measured less predicted
    is_inside: bool | None = None
    inside: int = 0  # of the metric's predictions that are scored so far
    scored: int = 0

    @property
    def coverage(self) -> float | None:
        """The share of the metric's scored predictions that lie inside so far; None before the first."""
        return self.inside / self.scored if self.scored else None


def score(predictions: Iterable[Prediction]) -> list[Scored]:
    """Score predictions in their order; those without an outcome or a value stay without a score."""
    inside, scored = Counter[str](), Counter[str]()
    found = []
    for one in predictions:
        if one.value is None or one.low is None or one.high is None or one.measured is None:
            found.append(Scored(one, inside=inside[one.metric], scored=scored[one.metric]))
            continue
        hit = one.low <= one.measured <= one.high
        inside[one.metric] += hit
        scored[one.metric] += 1
        found.append(Scored(one, one.measured - one.value, hit, inside[one.metric], scored[one.metric]))
    return found


def summary(scored: Sequence[Scored]) -> list[str]:
    """Coverage and mean error by metric, one line each; then how many predictions wait, or could not be told."""
    lines = []
    for metric in dict.fromkeys(one.prediction.metric for one in scored):
        own = [one for one in scored if one.prediction.metric == metric]
        errors = [abs(one.error) for one in own if one.error is not None]
        if errors:
            stated = f"{own[0].prediction.confidence:.0%}"
            mean = f"mean absolute error {sum(errors) / len(errors):.4g}"
            lines.append(f"{metric}: {own[-1].inside} of {own[-1].scored} inside their {stated} interval, {mean}")
    waiting = sum(one.error is None and one.prediction.value is not None for one in scored)
    untold = sum(one.prediction.value is None for one in scored)
    lines += [f"{waiting} predictions are not scored yet"] if waiting else []
    return lines + ([f"{untold} predictions could not be told"] if untold else [])
