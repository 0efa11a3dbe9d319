"""Choice of the next runs: which would narrow the prediction at a target most per GPU hour, and which can be dropped.

Resampled fits of several laws are an ensemble. How much a run would narrow the target follows from the covariance of
the ensemble's predictions at both places: after a point with noise σ² is seen, the target's variance falls by
cov(target, place)² / (var(place) + σ²), the Gaussian update of ensemble filters. Planning needs no new fit.

Legend: K members of the ensemble, m candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arrays import Floats
from analysis.fitting import averages
from analysis.fitting.estimate import Average, Points
from analysis.fitting.intervals import spread

DRAWS = 600
NEGLIGIBLE = 0.02  # of the target's deviation: a run that narrows it by less can be dropped


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
    before: float  # standard deviation of the law at the target, in its space
    after: float

    @property
    def per_hour(self) -> float:
        return (self.before - self.after) / self.candidate.hours


@dataclass(frozen=True)
class Ensemble:
    """Covariance of the predictions at the candidates and at the target, which is last."""

    covariance: Floats  # (m + 1, m + 1)
    noise: float  # variance of one run about the law

    @classmethod
    def of(cls, law: Average, points: Points, candidates: Sequence[Candidate], target: float) -> Ensemble:
        """The ensemble of a fitted law over one input."""
        x = np.array([*(candidate.x for candidate in candidates), target])[:, None]
        draws = spread(law, points, x, DRAWS)
        draws = draws[np.isfinite(draws).all(axis=1)]
        covariance = np.cov(draws.T)
        deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
        correlation = covariance / np.outer(deviation, deviation)
        # K draws correlate by 1/sqrt(K) by chance: correlations below twice that are set to 0
        kept = np.where(np.abs(correlation) > 2 / np.sqrt(len(draws)), correlation, 0.0)
        scales = np.array([member.coordinates.z_scale * member.certificate.residual for member in law.members])
        noise = float(np.sum(law.shares * scales**2))
        if law.space == "log":  # the residuals of few points are smaller than their noise
            noise = max(noise, _finite(averages.noise_variance(points, law.metric)))
        return cls(kept * np.outer(deviation, deviation), max(noise, 1e-12))

    @property
    def target_deviation(self) -> float:
        return float(np.sqrt(max(self.covariance[-1, -1], 0.0)))

    def gains(self) -> Floats:
        """How much each candidate's run would reduce the target's variance (m,)."""
        place = np.diag(self.covariance)[:-1]
        result: Floats = self.covariance[-1, :-1] ** 2 / (place + self.noise)
        return np.asarray(np.minimum(result, self.covariance[-1, -1]))

    def after(self, index: int) -> Ensemble:
        """The ensemble once a candidate's run has been seen."""
        column = self.covariance[:, index]
        update = np.outer(column, column) / (self.covariance[index, index] + self.noise)
        return Ensemble(self.covariance - update, self.noise)


def next_runs(
    law: Average, points: Points, candidates: Sequence[Candidate], target: float, *, budget: float, count: int
) -> list[RankedRun]:
    """The runs to do next, each given those before it.

    Two greedy orders are tried, by gain per GPU hour and by gain, and the one that leaves less uncertainty is kept: by
    gain per hour alone, a budget can be spent on many cheap runs that narrow it less than one expensive run
    (Leskovec et al. 2007).

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
    ensemble = Ensemble.of(law, points, candidates, target)
    tried = [_greedily(ensemble, candidates, budget, count, per_hour=per_hour) for per_hour in (True, False)]
    return min(tried, key=lambda runs: runs[-1].after if runs else np.inf)


def _greedily(
    ensemble: Ensemble, candidates: Sequence[Candidate], budget: float, count: int, *, per_hour: bool
) -> list[RankedRun]:
    """Add the affordable run that narrows the target most, in total or per GPU hour, until none helps."""
    hours = np.array([candidate.hours for candidate in candidates])
    runs = list[RankedRun]()
    available = np.ones(len(candidates), dtype=bool)
    while len(runs) < count:
        before = ensemble.target_deviation
        worth = before - np.sqrt(np.maximum(before**2 - ensemble.gains(), 0.0))
        worth = np.where(available & (hours <= budget), worth / hours if per_hour else worth, 0.0)
        if not (worth > 0).any():
            break
        best = int(np.argmax(worth))
        ensemble = ensemble.after(best)
        runs.append(RankedRun(candidates[best], before, ensemble.target_deviation))
        budget -= candidates[best].hours
        available[best] = False
    return runs


def droppable(
    law: Average, points: Points, planned: Sequence[Candidate], target: float, negligible: float = NEGLIGIBLE
) -> list[RankedRun]:
    """Planned runs that the target hardly needs: most expensive first, each given those dropped before.

    `before` is the target's deviation with all that is still planned, `after` without the run.
    """
    _check(law, planned)
    ensemble = Ensemble.of(law, points, planned, target)
    kept = list(range(len(planned)))
    limit = _deviation(ensemble, kept) * (1 + negligible)
    dropped = []
    for index in sorted(kept, key=lambda i: -planned[i].hours):
        rest = [i for i in kept if i != index]
        without = _deviation(ensemble, rest)
        if without <= limit:
            dropped.append(RankedRun(planned[index], _deviation(ensemble, kept), without))
            kept = rest
    return dropped


def _deviation(ensemble: Ensemble, seen: Sequence[int]) -> float:
    """The target's deviation once these candidates' runs have been seen."""
    for index in seen:
        ensemble = ensemble.after(index)
    return ensemble.target_deviation


def _finite(value: float) -> float:
    return value if np.isfinite(value) else 0.0


def _check(law: Average, candidates: Sequence[Candidate]) -> None:
    if law.members[0].law.inputs != 1:
        raise ValueError("choosing runs needs a law of compute alone; a joint law has no single x")
    for candidate in candidates:
        if not (candidate.hours > 0 and candidate.x > 0):
            values = f"compute {candidate.x:g} and hours {candidate.hours:g}"
            raise ValueError(f"candidate {candidate.name}: {values} must be positive")
