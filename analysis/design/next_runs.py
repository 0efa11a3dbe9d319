"""Choice of the next runs: which narrow the prediction at a target most within a budget, and which can be dropped.

What a run would tell is judged under every law that the finished runs do not exclude (`plausible`): with few or
neighbouring runs the plateau and the exponent are open, and runs over the range come first; once they are known, runs
that narrow. Planning needs no new fit.

Legend: m candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from analysis.design.plausible import Plausible, Unsettled
from analysis.fitting.estimate import Average, Points

NEGLIGIBLE = 0.02  # of the target's deviation: a run that narrows it by less can be dropped
APART = 0.5  # decades from every other run: a run that is farther away is done for the range
SMALL = 1e-4  # step of a numerical derivative
DEARNESS = (0.0, 0.5, 1.0)  # powers of cost that a gain is divided by, in the orders that are tried

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

    Greedy orders by gain, by gain per GPU hour and by gain per root of it are tried, and the one that leaves least
    uncertainty is kept: by gain per hour alone, a budget can be spent on many cheap runs that narrow it less than one
    expensive run (Leskovec et al. 2007).

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
    laws = Plausible.of(points, law.metric, np.array([candidate.x for candidate in candidates]), target)
    tried = [_greedily(laws, candidates, budget, count, dearness) for dearness in DEARNESS]
    best = min(tried, key=lambda order: order[-1].after if order else np.inf)
    return _in_space(_with_purpose(best, points), _unit(law, points, target))


def unsettled(law: Average, points: Points, target: float) -> Unsettled:
    """What the finished runs leave open of the law."""
    return Plausible.of(points, law.metric, np.array([target]), target).unsettled


def _greedily(
    laws: Plausible, candidates: Sequence[Candidate], budget: float, count: int, dearness: float
) -> list[RankedRun]:
    """Add the affordable run of most gain over a power of its GPU hours, until none helps."""
    hours = np.array([candidate.hours for candidate in candidates])
    runs = list[RankedRun]()
    available = np.ones(len(candidates), dtype=bool)
    while len(runs) < count:
        worth = np.where(available & (hours <= budget), laws.gains() / hours**dearness, 0.0)
        if not (worth > 0).any():
            break
        best = int(np.argmax(worth))
        before, laws = laws.deviation, laws.after(best)
        runs.append(RankedRun(candidates[best], before, laws.deviation))
        budget -= candidates[best].hours
        available[best] = False
    return runs


def _with_purpose(runs: Sequence[RankedRun], points: Points) -> list[RankedRun]:
    """The same runs; those far from every finished run and from every run before them are done for the range."""
    seen, told = np.log10(points.x[:, 0]).tolist(), list[RankedRun]()
    for run in runs:
        place = float(np.log10(run.candidate.x))
        far = min(abs(place - other) for other in seen) > APART
        told.append(replace(run, purpose="range" if far else "narrowing"))
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
