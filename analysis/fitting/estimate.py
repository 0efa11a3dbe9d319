"""Estimation: fit one law to one curve, with a certificate that it converged, and average several laws.

Legend: n points, d inputs, m places, K resamples, p parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats
from analysis.fitting.least_squares import Problem, Solution, gain, polish, solve
from analysis.fitting.variance_components import Levels
from analysis.laws.beliefs import WEAK, Belief, Prior
from analysis.laws.catalogue import Law, Space
from analysis.laws.metric import Coordinates, Metric

AGREEMENT = 1e-4  # objectives within this share of the best count as the same minimum
FLATNESS = 1e-5  # relative gain that a Newton step may still promise in a converged fit
SPACES = {"log": "logarithm", "logit": "logit", "linear": "finite value"}
THOROUGH, ROUGH = (100, 1e-9), (20, 1e-4)  # largest number of steps, and the gain below which a fit ends
STEP = 1e-4  # of parameters and values, for derivatives
HIGHEST = 10.0  # times the largest value: a plateau before learning, where the metric's range does not bound it
JOINT_HUBER = 1e-3  # Hoffmann et al. (2022) and Besiroglu et al. (2024), on the log of the loss


def log_compute(x: Floats) -> Floats:
    """What orders places x (m, d): the log of x, or of size times data, the first input and the last (m,)."""
    logs = np.log(x)
    # rounded, because equal products of different factors differ in their last digit
    return np.asarray(logs[:, 0] if x.shape[1] == 1 else np.round(logs[:, 0] + logs[:, -1], 9))


@dataclass(frozen=True)
class Points:
    """One curve's runs. Compute that is only bounded has its ends in `x_low` and `x_high`."""

    x: Floats  # (n, d), positive
    y: Floats  # (n,)
    runs: tuple[object, ...] = ()  # the run of each point, where checkpoints of one run correlate
    x_low: Floats | None = None  # (n, d)
    x_high: Floats | None = None
    decaying: bool = False  # whether they are checkpoints under a learning rate that decays, as the table tells
    levels: Levels | None = None  # architectures, where their scatter is a component of variance

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, keep: npt.NDArray[Any]) -> Points:
        """The points at these indices or where this mask is true."""
        index = np.arange(len(self))[np.asarray(keep)]
        low, high = (None if end is None else end[index] for end in (self.x_low, self.x_high))
        runs = tuple(self.runs[i] for i in index) if self.runs else ()
        levels = self.levels.subset(index) if self.levels else None
        return Points(self.x[index], self.y[index], runs, low, high, self.decaying, levels)

    @property
    def order(self) -> npt.NDArray[np.intp]:
        """Indices from the least compute to the most; which column comes first does not matter."""
        return np.argsort(log_compute(self.x), kind="stable")

    def beyond(self, x: Floats) -> Floats:
        """How far places x (m, d) are beyond the points, as logs (m,): in compute, or in the input farthest out."""
        inputs = (np.log(x) - np.log(self.x.max(axis=0))).max(axis=1)
        compute = log_compute(x) - log_compute(self.x).max()
        return np.asarray(np.maximum(np.maximum(inputs, compute), 0.0))


@dataclass(frozen=True)
class Factors:
    """The two factors behind a single x, such as cost per crop and crops, of each point."""

    names: tuple[str, str]
    values: Floats  # (n, 2), positive


@dataclass(frozen=True)
class Certificate:
    """Whether the optimiser converged: how flat the minimum is, how many starts agree, which loss was reached."""

    converged: bool
    promise: float  # what a Newton step would still gain, as a share of the objective
    starts: int
    agreeing: int  # starts that ended at the best objective
    objective: float
    residual: float  # weighted root mean square residual, in the law's space
    iterations: int


@dataclass(frozen=True)
class Settings:
    """How a law is fitted."""

    belief: Belief = WEAK
    tail: float = 0.0  # weights grow as x**tail, towards the side that is extrapolated
    huber: float | None = None


@dataclass(frozen=True)
class Fitted:
    """A law with its parameters."""

    law: Law
    coordinates: Coordinates
    settings: Settings
    theta: Floats  # (p,)
    problem: Problem = field(repr=False, compare=False)
    certificate: Certificate
    space: Space  # in which it predicts: the law's own, or that of the average that it is a member of

    @property
    def residual(self) -> float:
        """Weighted root mean square residual in that space, of a metric in its own units."""
        if self.space == self.law.space:
            return self.coordinates.z_scale * self.certificate.residual
        at, metric = self.coordinates, self.coordinates.metric
        fitted = self.problem.model(self.theta[None], self.problem.inputs)[0][0]
        ends = [at.z_ref + at.z_scale * z for z in (self.problem.targets[0], fitted)]
        measured, found = (metric.convert(end, self.law.space, self.space) for end in ends)
        return float(np.sqrt(np.mean(self.problem.weights[0] * (measured - found) ** 2)))

    def log_or_linear(self, x: Floats, theta: Floats | None = None) -> Floats:
        """In its space at places x (m, d): (m,), or (K, m) for other parameters (K, p)."""
        coordinates = self.coordinates
        rows = self.theta[None] if theta is None else theta
        inputs = coordinates.inputs(x)
        with np.errstate(all="ignore"):  # a resample may be anywhere; values that are not finite are left out later
            z = self.problem.model(rows, inputs[None])[0]
        if self.law.bends:
            # a corner of several inputs may be beyond the points with none of its inputs
            beyond = (inputs[:, 0] > self.problem.inputs[..., 0].max()) | (self.law.inputs > 1)
            z = np.where(beyond, np.minimum(z, self.problem.targets.max()), z)
        own: Floats = coordinates.z_ref + coordinates.z_scale * z
        result = coordinates.metric.convert(own, self.law.space, self.space)
        return result[0] if theta is None else result

    def predict(self, x: Floats) -> Floats:
        """The metric at places x (m, d)."""
        metric = self.coordinates.metric
        return metric.within(metric.from_space(self.log_or_linear(x), self.space))

    def sensitivity(self, x: Floats) -> Floats:
        """How it moves with each parameter at places x (m, d), in its space: (m, p)."""
        steps = STEP * np.eye(len(self.theta))
        up, down = (self.log_or_linear(x, self.theta + sign * steps) for sign in (1, -1))  # (p, m)
        return np.asarray((up - down).T / (2 * STEP))

    def response(self, points: Points, x: Floats) -> Floats:
        """How it moves at places x (m, d) with the value of each of the points that it was fitted to, (m, n)."""
        at = self.coordinates
        z = at.metric.to_space(points.y, self.space)
        own = [at.metric.convert(z + step, self.space, self.law.space) for step in (STEP, -STEP)]
        moved = np.empty((len(self.theta), len(points)))
        moved[:, points.order] = gain(self.problem, self.theta) / at.z_scale
        return np.asarray(self.sensitivity(x) @ (moved * (own[0] - own[1]) / (2 * STEP)))


@dataclass(frozen=True)
class Average:
    """Laws averaged in their common space. A single law is an average of one."""

    members: tuple[Fitted, ...]
    shares: Floats  # (members,), sum 1

    @property
    def space(self) -> str:
        return self.members[0].space

    @property
    def metric(self) -> Metric:
        return self.members[0].coordinates.metric

    def log_or_linear(self, x: Floats) -> Floats:
        """(m,) in the members' space."""
        return self.shares @ np.stack([member.log_or_linear(x) for member in self.members])

    def predict(self, x: Floats) -> Floats:
        """The metric at places x (m, d)."""
        return self.metric.within(self.metric.from_space(self.log_or_linear(x), self.space))


def fit_law(law: Law, points: Points, metric: Metric, settings: Settings | None = None) -> Fitted:
    """Fit one law from its many starts and keep the best minimum.

    Raises:
        ValueError: the points have another number of inputs than the law, or no start led to a finite fit.
    """
    settings = settings or Settings()
    return fit_beliefs(law, points, metric, settings, [settings.belief])[0]


def fit_beliefs(
    law: Law, points: Points, metric: Metric, settings: Settings, beliefs: Sequence[Belief], *, rough: bool = False
) -> list[Fitted]:
    """Fit one law under several beliefs, with every start under every belief as a row of one batch.

    Args:
        law: the law to fit.
        points: the runs.
        metric: what kind of number y is.
        settings: everything but the belief.
        beliefs: one fit for each.
        rough: end after few steps, for fits that only measure the error of such fits.

    Raises:
        ValueError: as `fit_law`.
    """
    points = _fit_for(law, points, metric)
    coordinates = Coordinates.of(metric, law.space, points.x, points.y, law.shared)
    problems = [problem_of(law, points, coordinates, replace(settings, belief=belief)) for belief in beliefs]
    starts = law.starts(problems[0].inputs[0], problems[0].targets[0])
    steps, tolerance = ROUGH if rough else THOROUGH
    together = solve(
        _stacked(problems, len(starts)), np.tile(starts, (len(beliefs), 1)), iterations=steps, tolerance=tolerance
    )
    fits = []
    for index, (belief, problem) in enumerate(zip(beliefs, problems, strict=True)):
        solution = together.part(slice(index * len(starts), (index + 1) * len(starts)))
        if not np.isfinite(solution.objective).any():
            raise ValueError(f"law {law.name}: no start led to a finite fit")
        if settings.huber is not None:
            solution = _better(solution, polish(problem, solution.theta))
        theta = solution.theta[solution.best]
        own = replace(settings, belief=belief)
        fits.append(Fitted(law, coordinates, own, theta, problem, _certify(solution, problem), law.space))
    return fits


def _fit_for(law: Law, points: Points, metric: Metric) -> Points:
    """The points in order of x, if the law can take them."""
    if points.x.shape[1] != law.inputs:
        raise ValueError(f"law {law.name} takes {law.inputs} inputs, the table gives {points.x.shape[1]}")
    with np.errstate(all="ignore"):
        lost = int(np.sum(~np.isfinite(metric.to_space(points.y, law.space))))
    if lost:
        raise ValueError(f"law {law.name}: {lost} of {len(points)} values of the metric have no {SPACES[law.space]}")
    return points.subset(points.order)


def _stacked(problems: Sequence[Problem], starts: int) -> Problem:
    """Problems that differ only in their prior as one problem, with `starts` rows for each."""
    priors = [problem.prior for problem in problems if problem.prior is not None]
    mean, deviation, strength = (
        np.repeat(np.concatenate([getattr(prior, name) for prior in priors]), starts, axis=0)
        for name in ("mean", "deviation", "strength")
    )
    return replace(problems[0], prior=Prior(mean, deviation, strength))


def problem_of(law: Law, points: Points, coordinates: Coordinates, settings: Settings) -> Problem:
    """The least-squares problem of points in some coordinates."""
    inputs = coordinates.inputs(points.x)
    weights = np.exp(settings.tail * (inputs[:, 0] - inputs[:, 0].max()))
    prior = law.prior(settings.belief)
    # Beliefs are about logarithms; a linear space is standardised, so its residuals are a share of the spread.
    targets = coordinates.values(points.y)
    form = law.capped(_highest(coordinates, targets)) if law.capped else law.form
    whitener = points.levels.whitener if points.levels and points.levels.ratio else None
    return Problem(form, inputs[None], targets[None], (weights / weights.mean())[None], prior, settings.huber, whitener)


def _highest(coordinates: Coordinates, targets: Floats) -> float:
    """The highest plateau before learning, in the law's units: the end of the metric's range, or well above all."""
    range_ = coordinates.metric.farthest / np.exp(coordinates.z_ref)
    return float(min(range_, HIGHEST * np.exp(targets.max())))


def _better(first: Solution, second: Solution) -> Solution:
    worse = second.objective > first.objective
    theta = np.where(worse[:, None], first.theta, second.theta)
    objective = np.minimum(first.objective, second.objective)
    return replace(second, theta=theta, objective=objective, iterations=first.iterations + second.iterations)


def _certify(solution: Solution, problem: Problem) -> Certificate:
    best = solution.best
    objective = float(solution.objective[best])
    agreeing = int(np.sum(solution.objective <= objective * (1 + AGREEMENT) + 1e-15))
    residual = problem.targets[0] - problem.model(solution.theta[best][None], problem.inputs)[0][0]
    promise = float(solution.promise[best])
    return Certificate(
        converged=bool(promise < FLATNESS or objective < 1e-18),
        promise=promise,
        starts=len(solution.objective),
        agreeing=agreeing,
        objective=objective,
        residual=float(np.sqrt(np.mean(problem.weights[0] * residual**2))),
        iterations=solution.iterations,
    )


def average(members: Sequence[Fitted], shares: npt.ArrayLike | None = None) -> Average:
    """An average of fitted laws; equal shares when none are given. Of laws in `log` and `logit`, it is one in `log`."""
    spaces = {member.law.space for member in members}
    if len(spaces) > 1 and "linear" in spaces:
        raise ValueError(f"laws of {len(spaces)} spaces cannot be averaged: {', '.join(sorted(spaces))}")
    if len(spaces) > 1:
        members = [replace(member, space="log") for member in members]
    weights = np.ones(len(members)) if shares is None else np.asarray(shares, dtype=np.float64)
    return Average(tuple(members), weights / weights.sum())
