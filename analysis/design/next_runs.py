"""Choice of the next runs: which narrow the prediction at a target most within a budget, and which can be dropped.

What a run would tell is judged under every law that the finished runs do not exclude (`plausible`): with few or
neighbouring runs the plateau and the exponent are open, and runs over the range come first; once they are known, runs
that narrow. Several choices are rehearsed: studies are simulated under plausible laws and fitted as the real one is,
and the choice with the least error at the target is kept.

Legend: m candidates, K simulated studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from analysis.arrays import Floats
from analysis.design.plausible import BREAK, Plausible, Unsettled
from analysis.fitting import averages
from analysis.fitting.estimate import Average, Points

NEGLIGIBLE = 0.02  # of the target's deviation: a run that narrows it by less can be dropped
APART = 0.5  # decades from every other run: a run that is farther away is done for the range
SMALL = 1e-4  # step of a numerical derivative
DEARNESS = (0.0, 0.5, 1.0)  # powers of cost that a gain is divided by, in the orders that are tried
STEPS = 3.0  # runs a decade, where they are even
STUDIES, WORST = 16, 1.0  # simulated to rehearse a choice; the largest error that counts, in logs

Purpose = Literal["range", "narrowing"]


@dataclass(frozen=True)
class Candidate:
    """A run that could be done next."""

    name: str
    x: float  # compute, in the fit's convention
    hours: float  # GPU hours, positive


@dataclass(frozen=True)
class RankedRun:
    """A run, and the target's deviation before and after it, given the runs ranked before it."""

    candidate: Candidate
    before: float  # standard deviation of the prediction at the target, in the law's space
    after: float
    purpose: Purpose = "narrowing"

    @property
    def per_hour(self) -> float:
        return (self.before - self.after) / self.candidate.hours


def next_runs(
    law: Average, points: Points, candidates: Sequence[Candidate], target: float, *, budget: float, count: int
) -> list[RankedRun]:
    """The runs to do next, each given those before it.

    Greedy orders by gain, by gain per GPU hour and by gain per root of it, under laws with breaks and without, the most
    expensive runs, and runs at even steps are rehearsed. None of them is the best everywhere: by gain per hour alone, a
    budget can be spent on many cheap runs that tell less than one expensive run (Leskovec et al. 2007); by gain alone,
    on two expensive runs with nothing between.

    Args:
        law: fitted to `points`, over one input.
        points: the finished runs.
        candidates: what could be run; each at most once.
        target: compute at which the prediction should be narrow.
        budget: GPU hours for all of them together.
        count: at most this many runs.

    Raises:
        ValueError: a candidate has no positive cost or compute, or the law has several inputs.
    """
    _check(law, candidates)
    if not candidates:
        return []
    x = np.array([candidate.x for candidate in candidates])
    hours = np.array([candidate.hours for candidate in candidates])
    smooth, laws = (Plausible.of(points, law.metric, x, target, breaks=breaks) for breaks in (0.0, BREAK))
    orders = [_greedily(each, hours, budget, count, dearness) for each in (laws, smooth) for dearness in DEARNESS]
    orders += [_evenly(x, hours, budget, count, steps) for steps in (STEPS, np.inf)]
    best = _rehearsed(law, points, x, target, orders, laws)
    return _in_space(_ranked(best, candidates, laws, points), _unit(law, points, target))


def unsettled(law: Average, points: Points, target: float) -> Unsettled:
    """What the finished runs leave open of the law."""
    return Plausible.of(points, law.metric, np.array([target]), target).unsettled


def _greedily(laws: Plausible, hours: Floats, budget: float, count: int, dearness: float) -> list[int]:
    """Add the affordable run of most gain over a power of its GPU hours (m,), until none helps."""
    order, available = list[int](), np.ones(len(hours), dtype=bool)
    while len(order) < count:
        worth = np.where(available & (hours <= budget), laws.gains() / hours**dearness, 0.0)
        if not (worth > 0).any():
            break
        best = int(np.argmax(worth))
        laws, budget, available[best] = laws.after(best), budget - hours[best], False
        order.append(best)
    return order


def _evenly(x: Floats, hours: Floats, budget: float, count: int, steps: float) -> list[int]:
    """From the largest affordable run down, at so many steps a decade of x (m,), or every run that fits."""
    order, below = list[int](), np.inf
    for index in np.argsort(-x, kind="stable").tolist():
        if len(order) < count and hours[index] <= budget and np.log10(x[index]) <= below:
            order.append(index)
            budget, below = budget - hours[index], float(np.log10(x[index])) - 1 / steps
    return order


def _rehearsed(
    law: Average, points: Points, x: Floats, target: float, orders: Sequence[Sequence[int]], laws: Plausible
) -> list[int]:
    """The order whose runs lead to the least error at the target, on average over simulated studies."""
    distinct = list({frozenset(order): list(order) for order in orders if order}.values())
    if len(distinct) < 2:
        return distinct[0] if distinct else []
    shown, truth = laws.studies(STUDIES)
    values = shown if law.metric.kind == "score" else law.metric.from_space(shown, "log")
    errors = [_error(law, points, x, values, truth, target, order) for order in distinct]
    return distinct[int(np.argmin(errors))]


def _error(
    law: Average, points: Points, x: Floats, values: Floats, truth: Floats, target: float, order: Sequence[int]
) -> float:
    """Mean root |error| at the target of laws fitted to the points and these runs of each study (K, m).

    The root keeps a law that no affordable run could show from deciding the choice.
    """
    name = law.members[0].law.name if len(law.members) == 1 else "auto"
    metric, more = law.metric, np.array(order)
    places, errors = np.concatenate([points.x, x[more, None]]), []
    for study, true in zip(values, truth, strict=True):
        together = Points(places, np.concatenate([points.y, metric.within(study[more])]))
        try:
            found = averages.fit(together, metric, name, rough=True).predict(np.array([[target]]))
        except ValueError:  # such as a share of 0, which has no logit
            return np.inf
        there = found if metric.kind == "score" else metric.to_space(found, "log")
        errors.append(float(np.sqrt(np.minimum(np.abs(there - true), WORST))[0]))
    return float(np.mean(errors))


def _ranked(order: Sequence[int], candidates: Sequence[Candidate], laws: Plausible, points: Points) -> list[RankedRun]:
    """The runs in order; those far from every finished run and from every run before them are done for the range."""
    seen, told = np.log10(points.x[:, 0]).tolist(), list[RankedRun]()
    for index in order:
        before, laws = laws.deviation, laws.after(index)
        place = float(np.log10(candidates[index].x))
        far = min(abs(place - other) for other in seen) > APART
        told.append(RankedRun(candidates[index], before, laws.deviation, "range" if far else "narrowing"))
        seen.append(place)
    return told


def _in_space(runs: Sequence[RankedRun], unit: float) -> list[RankedRun]:
    return [replace(run, before=unit * run.before, after=unit * run.after) for run in runs]


def _unit(law: Average, points: Points, target: float) -> float:
    """How much the law's space changes at the target per unit of the space that plausible laws are in."""
    metric, space = law.metric, "linear" if law.metric.kind == "score" else "log"
    if law.space == space:
        return 1.0
    predicted = metric.to_space(law.predict(np.array([[target]])), space)
    centre = (
        predicted if np.isfinite(predicted).all() else metric.to_space(points.y[np.argmax(points.x[:, 0])][None], space)
    )
    ends = [metric.convert(centre + step, space, law.space) for step in (-SMALL, SMALL)]
    return float(abs(ends[1] - ends[0])[0] / (2 * SMALL))


def droppable(
    law: Average, points: Points, planned: Sequence[Candidate], target: float, negligible: float = NEGLIGIBLE
) -> list[RankedRun]:
    """Planned runs that the target hardly needs: most expensive first, each given those dropped before.

    `before` is the target's deviation with all that is still planned, `after` without the run.
    """
    _check(law, planned)
    laws = Plausible.of(points, law.metric, np.array([candidate.x for candidate in planned]), target)
    kept = list(range(len(planned)))
    limit = _deviation(laws, kept) * (1 + negligible)
    dropped = []
    for index in sorted(kept, key=lambda i: -planned[i].hours):
        rest = [i for i in kept if i != index]
        without = _deviation(laws, rest)
        if without <= limit:
            dropped.append(RankedRun(planned[index], _deviation(laws, kept), without))
            kept = rest
    return _in_space(dropped, _unit(law, points, target))


def _deviation(laws: Plausible, seen: Sequence[int]) -> float:
    """The target's deviation once these candidates' runs have been seen."""
    for index in seen:
        laws = laws.after(index)
    return laws.deviation


def _check(law: Average, candidates: Sequence[Candidate]) -> None:
    if law.members[0].law.inputs != 1:
        raise ValueError("choosing runs needs a law of compute alone; a joint law has no single x")
    for candidate in candidates:
        if not (candidate.hours > 0 and candidate.x > 0):
            values = f"compute {candidate.x:g} and hours {candidate.hours:g}"
            raise ValueError(f"candidate {candidate.name}: {values} must be positive")
