"""Least-squares solver for many fits at once: starts, resamples and profiles are rows of one batch.

Levenberg-Marquardt with analytic Jacobians, Gaussian priors, weights, and Huber's loss by reweighting; rows leave the
batch as they converge. `polish` then takes a Huber fit to its minimum with Newton steps.

Legend: K rows of the batch (starts, resamples), n points, d inputs, p parameters. An axis K of data may also be 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats
from analysis.laws.beliefs import Prior
from analysis.laws.forms import Model

BatchRows = npt.NDArray[np.intp]

LONGEST_STEP = 3.0  # parameters are logarithms or of order one; the linearised model holds no further
FIRST_DAMPING, LARGEST_DAMPING = 1e-2, 1e9
SHRINK, GROW = 0.2, 5.0
DIFFERENCE = 1e-5  # step of the finite differences for Newton's curvature


@dataclass(frozen=True)
class Problem:
    """What is fitted: targets (K or 1, n) as the model of inputs (K or 1, n, d), with weights (K or 1, n)."""

    model: Model
    inputs: Floats
    targets: Floats
    weights: Floats
    prior: Prior | None = None
    huber: float | None = None  # residuals beyond it count linearly; None: squares throughout
    whitener: Floats | None = None  # (n, n) makes residuals independent, as in generalised least squares

    def rows(self, rows: BatchRows) -> Problem:
        """The problem of some rows of the batch."""

        def pick(values: Floats) -> Floats:
            return values if len(values) == 1 else values[rows]

        prior = self.prior and Prior(*map(pick, (self.prior.mean, self.prior.deviation, self.prior.strength)))
        data = pick(self.inputs), pick(self.targets), pick(self.weights)
        return Problem(self.model, *data, prior, self.huber, self.whitener)

    def residuals(self, theta: Floats) -> tuple[Floats, Floats]:
        """Independent residuals (K, n) at parameters (K, p), and the Jacobian (K, n, p) of what they are left from."""
        values, jacobian = self.model(theta, self.inputs)
        residual = self.targets - values
        if self.whitener is None:
            return residual, jacobian
        return residual @ self.whitener.T, self.whitener @ jacobian

    def at(self, theta: Floats) -> Local:
        """Objective, downhill direction and Gauss-Newton curvature at parameters (K, p)."""
        residual, jacobian = self.residuals(theta)
        if self.huber is None:
            weight = np.broadcast_to(self.weights, residual.shape)
            objective = np.sum(weight * residual**2, axis=1)
        else:
            size = np.maximum(np.abs(residual), self.huber)
            weight = self.weights * (self.huber / size)
            objective = np.sum(weight * (residual**2 + size * (size - self.huber)), axis=1)
        weighted = np.swapaxes(jacobian * weight[..., None], 1, 2)  # (K, p, n)
        downhill = (weighted @ residual[..., None])[..., 0]
        curvature = weighted @ jacobian
        if self.prior is not None:
            precision, distance = self.prior.precision, theta - self.prior.mean
            objective = objective + np.sum(precision * distance**2, axis=1)
            downhill = downhill - precision * distance
            curvature = curvature + precision[:, :, None] * np.eye(theta.shape[1])
        return Local(objective, downhill, curvature)


@dataclass(frozen=True)
class Local:
    """An objective's neighbourhood: value (K,), half the negative gradient (K, p), half the curvature (K, p, p)."""

    objective: Floats
    downhill: Floats
    curvature: Floats

    def updated(self, other: Local, where: npt.NDArray[np.bool_]) -> Local:
        return Local(
            np.where(where, other.objective, self.objective),
            np.where(where[:, None], other.downhill, self.downhill),
            np.where(where[:, None, None], other.curvature, self.curvature),
        )

    def step(self, damping: Floats) -> Floats:
        """The damped step downhill (K, p), clipped to LONGEST_STEP."""
        diagonal = np.maximum(np.abs(np.einsum("kpp->kp", self.curvature)), 1e-12)
        damped = self.curvature + (damping[:, None] * diagonal)[:, None, :] * np.eye(diagonal.shape[1])
        finite = np.isfinite(damped).all(axis=(1, 2)) & np.isfinite(self.downhill).all(axis=1)
        safe = np.where(finite[:, None, None], damped, np.eye(diagonal.shape[1]))
        direction = np.where(finite[:, None], self.downhill, 0.0)
        try:
            step = np.linalg.solve(safe, direction[..., None])[..., 0]
        except np.linalg.LinAlgError:  # a parameter that no longer affects any point
            step = np.einsum("kpq,kq->kp", np.linalg.pinv(safe, hermitian=True), direction)
        step = np.where(np.isfinite(step), step, 0.0)
        result: Floats = np.minimum(np.maximum(step, -LONGEST_STEP), LONGEST_STEP)
        return result

    def promise(self) -> Floats:
        """What a Newton step still promises, as a share of the objective (K,): 0 at a minimum."""
        step = self.step(np.full(len(self.objective), 1e-9))
        gain = np.abs(np.einsum("kp,kp->k", step, self.downhill))
        return np.asarray(gain / np.maximum(self.objective, 1e-300))


@dataclass(frozen=True)
class Solution:
    """Where each row of the batch ended."""

    theta: Floats  # (K, p)
    objective: Floats  # (K,); infinite where the model was not finite
    promise: Floats  # (K,) see `Local.promise`
    iterations: int

    def part(self, rows: slice) -> Solution:
        """The solution of some rows."""
        return Solution(self.theta[rows], self.objective[rows], self.promise[rows], self.iterations)

    @property
    def best(self) -> int:
        return int(np.argmin(self.objective))


def solve(
    problem: Problem, starts: Floats, *, iterations: int = 100, tolerance: float = 1e-9, certify: bool = True
) -> Solution:
    """Minimise the weighted squares of residuals (or Huber's loss) plus the prior, from every start at once.

    Huber's loss is r² within δ and 2δ|r| - δ² beyond, which is twice the usual definition.

    Args:
        problem: model and data.
        starts: (K, p).
        iterations: at most this many steps.
        tolerance: a row is done when a step gains less than this share of its objective.
        certify: whether to compute the promise of each row; resamples do not need it.
    """
    theta = np.array(starts, dtype=np.float64)
    rows = np.arange(len(theta))
    damping = np.full(len(theta), FIRST_DAMPING)
    part, done = problem, 0
    with np.errstate(all="ignore"):
        current = problem.at(theta)
        objective = np.where(np.isfinite(current.objective), current.objective, np.inf)
        for done in range(1, iterations + 1):  # noqa: B007  (reported in the solution)
            trial = theta[rows] + current.step(damping[rows])
            proposed = part.at(trial)
            better = proposed.objective <= objective[rows]  # false where it is not finite
            settled = better & (objective[rows] - proposed.objective <= tolerance * objective[rows])
            theta[rows[better]] = trial[better]
            objective[rows[better]] = proposed.objective[better]
            damping[rows] *= np.where(better, SHRINK, GROW)
            current = current.updated(proposed, better)
            stay = ~settled & (damping[rows] < LARGEST_DAMPING)
            if not stay.any():
                break
            if not stay.all():
                rows = rows[stay]
                part = problem.rows(rows)
                current = Local(current.objective[stay], current.downhill[stay], current.curvature[stay])
        promise = problem.at(theta).promise() if certify else np.full(len(theta), np.nan)
    return Solution(theta, objective, promise, done)


def polish(problem: Problem, theta: Floats, *, iterations: int = 80) -> Solution:
    """Take Huber fits to their minimum by damped Newton steps.

    Near the minimum of a loss that is almost absolute, reweighting converges slowly: its curvature counts all points,
    while only those within δ curve the loss. Newton uses the true curvature, by differences of the gradient.
    """
    theta = np.array(theta, dtype=np.float64)
    damping = np.full(len(theta), 1e-6)
    done = 0
    with np.errstate(all="ignore"):
        current = problem.at(theta)
        for done in range(1, iterations + 1):  # noqa: B007  (reported in the solution)
            newton = Local(current.objective, current.downhill, _newton_curvature(problem, theta))
            trial = theta + newton.step(damping)
            proposed = problem.at(trial)
            better = proposed.objective < current.objective
            theta = np.where(better[:, None], trial, theta)
            current = current.updated(proposed, better)
            damping = np.where(better, damping * 0.1, np.maximum(damping * 10, 1e-8))
            if (damping > LARGEST_DAMPING).all():
                break
        promise = Local(current.objective, current.downhill, _newton_curvature(problem, theta)).promise()
    return Solution(theta, current.objective, promise, done)


def _newton_curvature(problem: Problem, theta: Floats) -> Floats:
    """Half the second derivatives (K, p, p), by central differences of the analytic gradient, made positive."""
    columns = []
    for index in range(theta.shape[1]):
        shift = np.zeros(theta.shape[1])
        shift[index] = DIFFERENCE
        slopes = [problem.at(theta + sign * shift).downhill for sign in (1, -1)]
        columns.append((slopes[1] - slopes[0]) / (2 * DIFFERENCE))
    hessian = np.stack(columns, axis=2)
    hessian = (hessian + np.swapaxes(hessian, 1, 2)) / 2
    finite = np.asarray(np.isfinite(hessian).all(axis=(1, 2)))
    values, vectors = np.linalg.eigh(np.where(finite[:, None, None], hessian, np.eye(theta.shape[1])))
    positive: Floats = (vectors * np.abs(values)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    return positive


def gain(problem: Problem, theta: Floats) -> Floats:
    """How the parameters move with each target at a minimum of squares theta (p,): (p, n)."""
    weighted = problem.weights[0][:, None] * problem.residuals(theta[None])[1][0]
    curvature = problem.at(theta[None]).curvature[0]
    moved = np.linalg.pinv(curvature, hermitian=True) @ weighted.T
    return np.asarray(moved if problem.whitener is None else moved @ problem.whitener)


def without_each(problem: Problem, theta: Floats) -> Floats:
    """Where one Gauss-Newton step of every leave-one-out refit leads from a minimum theta (p,): (n, p).

    To first order that is the refit, at the cost of one small system per point (Cook 1977).
    """
    residual, jacobian = (part[0] for part in problem.residuals(theta[None]))
    weight = np.broadcast_to(problem.weights[0], residual.shape)
    if problem.huber is not None:
        weight = weight * (problem.huber / np.maximum(np.abs(residual), problem.huber))
    local, weighted = problem.at(theta[None]), weight[:, None] * jacobian
    left = Local(
        np.broadcast_to(local.objective, residual.shape),
        local.downhill - weighted * residual[:, None],
        local.curvature - weighted[:, :, None] * jacobian[:, None, :],
    )
    result: Floats = theta + left.step(np.full(len(residual), FIRST_DAMPING * 1e-4))
    return result
