"""Fit of the gain between two variants: the log of how much compute one law is ahead of the other, with an interval.

Differences and sums of pairs have different variances. Both are estimated from the residuals with the degrees of
freedom that the parameters leave them (restricted maximum likelihood, by reweighting), and the gain's interval is a
profile with the degrees of freedom of the differences.

Legend: n rows, p parameters of the law.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from analysis.arrays import Floats
from analysis.design.pairs import ALONE, DIFFERENCE, SUM, Kinds, Rows
from analysis.fitting.least_squares import Problem, solve
from analysis.fitting.parameters import profile_of
from analysis.laws.beliefs import WEAK, Prior
from analysis.laws.catalogue import Law
from analysis.laws.forms import STEEPEST
from analysis.laws.variants import COEFFICIENT, changing_gain, constant_gain, slope_of

ROUNDS = 4  # of fitting and estimating variances
LARGEST_RATIO = 1e4  # of a sum's variance to a difference's
LEAST_FREEDOM = 0.5
PRIOR_SHARE = 0.01  # of the variance of the rows: the prior's largest strength
FARTHEST_START = 8.0  # of the gain


@dataclass(frozen=True)
class GainFit:
    """Two laws fitted at once; log compute is measured from `reference`."""

    law: Law
    theta: Floats  # (p + 1,) or (p + 2,): the law's, the gain, log of the exponents' ratio
    reference: float
    freedom: float  # degrees of freedom of the intervals
    changes: bool  # whether the gain changes with compute
    problem: Problem = field(repr=False, compare=False)
    unit: float = 1.0  # by which the metric was multiplied

    @property
    def gain_column(self) -> int:
        return len(self.law.parameters)

    @property
    def gain(self) -> float:
        """log of the compute that the baseline needs over that which the variant needs, at the reference."""
        return float(self.theta[self.gain_column])

    def at(self, log_compute: float) -> GainFit:
        """The same two laws with another reference: a compute of the baseline."""
        shift, theta = log_compute - self.reference, self.theta.copy()
        theta[COEFFICIENT[self.law.name]] += float(slope_of(self.law, self.theta[None])[0, 0]) * shift
        if self.changes:
            theta[self.gain_column] += shift * (1 - np.exp(np.clip(-theta[-1], -STEEPEST, STEEPEST)))
        problem = replace(self.problem, inputs=self.problem.inputs - np.array([shift, 0.0]))
        return replace(self, theta=theta, reference=log_compute, problem=problem)

    def interval(self, column: int, confidence: float) -> tuple[float, float]:
        """Profile interval of a column of theta; an end that the rows do not bound is infinite."""
        return profile_of(self.problem, self.theta, column, confidence, self.freedom)


def fit_gain(law: Law, rows: Rows, *, changes: bool) -> GainFit:
    """Fit both laws to the rows.

    Args:
        law: one of those of `analysis.laws.variants`.
        rows: cells of both variants.
        changes: whether the variant has an exponent of its own, so that its gain changes with compute.
    """
    reference = float(rows.log_compute.mean())
    u, z = rows.log_compute - reference, _without_unit(law, rows.z)
    unit = 1.0 if law.space == "log" else 1 / (float(rows.z.std()) or 1.0)
    form, extra = (changing_gain(law), 2) if changes else (constant_gain(law), 1)
    targets = (rows.rotation @ z)[None]
    inputs = np.stack([u, rows.is_variant], axis=1)[None]
    problem = Problem(rows.rotated(form), inputs, targets, np.ones_like(targets), _prior(law, extra, WEAK.strength))
    starts = _starts(law, u, z, rows.is_variant, extra)
    solution = solve(problem, starts)
    theta, freedom = solution.theta[solution.best], 0.0
    for _ in range(ROUNDS):
        with np.errstate(over="ignore"):  # of noise alone, a fit may end anywhere
            problem, freedom = _reweighted(problem, theta, rows.kinds)
        theta = solve(problem, theta[None]).theta[0]
    return GainFit(law, theta, reference, freedom, changes, problem, unit)


def _without_unit(law: Law, z: Floats) -> Floats:
    """The metric from its best value in logs, which the law's starts expect, or in deviations from its mean."""
    result: Floats = z - z.min() if law.space == "log" else (z - z.mean()) / (float(z.std()) or 1.0)
    return result


def _prior(law: Law, extra: int, strength: float) -> Prior:
    """The law's weak prior, and none for what compares the variants."""
    mean, deviation = law.believed(WEAK)
    return Prior(np.array([mean + [0.0] * extra]), np.array([deviation + [np.inf] * extra]), np.array([[strength]]))


def _reweighted(problem: Problem, theta: Floats, kinds: Kinds) -> tuple[Problem, float]:
    """The problem with weights in units of a difference's, and a prior weaker than the noise; and the freedom.

    The variance of a kind of rows is its squared residuals over the degrees of freedom that the parameters leave it.
    """
    values, jacobian = problem.model(theta[None], problem.inputs)
    squares = (problem.targets - values)[0] ** 2
    basis = np.linalg.qr(jacobian[0] * np.sqrt(problem.weights[0])[:, None])[0]
    free = 1 - np.sum(basis**2, axis=1)  # (n,) what the parameters leave of each row
    read = DIFFERENCE if (kinds == DIFFERENCE).any() else ALONE  # the rows that the gain is read from
    freedom = {kind: max(float(free[kinds == kind].sum()), LEAST_FREEDOM) for kind in (DIFFERENCE, SUM, ALONE)}
    variance = {kind: float(squares[kinds == kind].sum()) / freedom[kind] for kind in freedom}
    ratio = float(np.clip(variance[SUM] / max(variance[DIFFERENCE], 1e-300), 1.0, LARGEST_RATIO))
    weight_of = {DIFFERENCE: 1.0, SUM: 1 / ratio, ALONE: 2 / (1 + ratio) if read == DIFFERENCE else 1.0}
    weights = np.array([[weight_of[int(kind)] for kind in kinds]])
    strength = np.array([[min(WEAK.strength, variance[read] * PRIOR_SHARE)]])
    prior = problem.prior and replace(problem.prior, strength=strength)
    return replace(problem, weights=weights, prior=prior), freedom[read]


def _starts(law: Law, u: Floats, z: Floats, is_variant: Floats, extra: int) -> Floats:
    """The law's starts for two gains: that of parallel lines through both variants, and none."""
    starts = []
    for gain in (_gain_of_lines(u, z, is_variant), 0.0):
        effective = u + gain * is_variant
        order = np.argsort(effective, kind="stable")
        own = law.starts(effective[order, None], z[order])
        compared = np.tile([gain, 0.0][:extra], (len(own), 1))
        starts.append(np.concatenate([own, compared], axis=1))
    return np.concatenate(starts)


def _gain_of_lines(u: Floats, z: Floats, is_variant: Floats) -> float:
    """The gain between parallel lines."""
    design = np.stack([np.ones_like(u), u, is_variant], axis=1)
    _, slope, ahead = np.linalg.lstsq(design, z, rcond=None)[0]
    return float(np.clip(ahead / slope, -FARTHEST_START, FARTHEST_START)) if slope else 0.0
