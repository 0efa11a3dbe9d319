"""Parameters of a fit in the units of its data, each with an interval, or marked as not identified.

Legend: K rows, p parameters, n points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats
from analysis.fitting.estimate import Fitted, Points
from analysis.fitting.intervals import THINNEST, TINY, bootstrap
from analysis.fitting.least_squares import Problem, solve
from analysis.fitting.variance_components import mixed_fit
from analysis.laws.forms import Model
from analysis.laws.metric import Coordinates

DECADE = float(np.log(10))
NEAR, REACH = 1e-6, 12.0  # nearest and farthest offset of a profile, in units of theta (logarithms)
STEPS = 48
CORRELATIONS = np.append(0.0, 1 - np.geomspace(0.9, 0.01, 12))  # of neighbouring residuals
FEWEST_CORRELATED = 6  # degrees of freedom from which a correlation is estimated
BEYOND = 300.0  # of theta: as good as infinity, without overflow


@dataclass(frozen=True)
class Parameter:
    """A parameter in the data's units. An end that the data do not bound is infinite, or 0 for a positive parameter."""

    name: str
    value: float
    low: float
    high: float
    method: str  # of the interval: profile, bootstrap
    identified: bool  # whether the data bound it on both sides


def natural(name: str, theta: Floats, at: Coordinates) -> dict[str, Floats]:
    """Parameters theta (K, p) of the law of that name in the units of x and y, each (K,).

    B is the coefficient at x = 1 in x's unit; slopes are per decade.
    """
    t = [theta[:, index] for index in range(theta.shape[1])]
    log_x, level = np.log(at.x_ref), at.z_ref
    with np.errstate(over="ignore"):
        if name in ("log_linear", "logit_linear"):
            slope = at.z_scale * t[1]
            sign = -1.0 if at.space == "linear" and at.metric.from_space(np.ones(1), "linear")[0] < 0 else 1.0
            return {"a": sign * (level + at.z_scale * t[0] - slope * log_x[0]), "b": sign * slope * DECADE}
        if name == "power_law":
            return {"B": np.exp(t[0] + level - t[1] * log_x[0]), "c": -t[1]}
        if name == "power_offset":
            c = np.exp(t[2])
            return {"E": np.exp(t[0] + level), "B": np.exp(t[1] + level + c * log_x[0]), "c": c}
        if name == "m3":
            c = np.exp(t[1])
            return {"B": np.exp(t[0] + level + c * log_x[0]), "c": c, "g": np.exp(t[2] - log_x[0])}
        if name == "m4":
            c, alpha, span = np.exp(t[3]), np.exp(t[4]), np.exp(t[1] + level)
            low = np.exp(t[0] + level)
            coefficient = np.exp((1 - alpha) * (t[1] + level) + t[2] + c * log_x[0])
            high = np.minimum(low + span, at.metric.farthest)
            return {"E": low, "E0": high, "B": coefficient, "c": c, "alpha": alpha}
        if name == "soft_start":
            return {"E": np.exp(t[0] + level), "B": np.exp(t[1] + level), "c": np.exp(t[2]),
                    "d": np.exp(t[3] + log_x[0]), "f": np.exp(t[4])}  # fmt: skip
        if name == "bnsl":
            c0 = np.exp(t[2])
            return {"E": np.exp(t[0] + level), "B": np.exp(t[1] + level + c0 * log_x[0]), "c0": c0,
                    "d": np.exp(t[3] + log_x[0]), "f": np.exp(t[4]), "c1": t[5]}  # fmt: skip
        if name == "saturating":
            c = np.exp(t[2])
            top = at.metric.from_space(level + at.z_scale * t[0], "linear")
            return {"C": top, "B": at.z_scale * np.exp(t[1] + c * log_x[0]), "c": c}
        alpha, beta = np.exp(t[3]), np.exp(t[3 if name == "joint_tied" else 4])
        values = {
            "E": np.exp(t[0] + level),
            "A": np.exp(t[1] + level + alpha * log_x[0]),
            "B": np.exp(t[2] + level + beta * log_x[-1]),
            "alpha": alpha,
            "beta": beta,
        }
        if name == "overfitting":  # at one parameter per unique example
            kappa = np.exp(t[6])
            height = np.exp(t[5] + level - kappa * (log_x[0] - log_x[1]))
            return values | {"P": height, "kappa": kappa, "delta": np.exp(t[7]), "H": np.exp(t[8])}
        return values | ({"R": np.exp(t[5])} if name == "data_constrained" else {})


# Parameters that depend on a single column of theta: only these can be fixed in a profile.
PROFILED = {
    "log_linear": {"b": 1}, "logit_linear": {"b": 1}, "power_law": {"c": 1}, "power_offset": {"E": 0, "c": 2},
    "m3": {"c": 1, "g": 2}, "m4": {"E": 0, "c": 3, "alpha": 4}, "soft_start": {"E": 0, "c": 2, "d": 3, "f": 4},
    "bnsl": {"E": 0, "c0": 2, "d": 3, "f": 4, "c1": 5}, "saturating": {"C": 0, "c": 2},
    "joint": {"E": 0, "alpha": 3, "beta": 4}, "joint_tied": {"E": 0, "alpha": 3, "beta": 3},
    "data_constrained": {"E": 0, "alpha": 3, "beta": 4, "R": 5},
    "overfitting": {"E": 0, "alpha": 3, "beta": 4, "kappa": 6, "delta": 7, "H": 8},
}  # fmt: skip


def parameters(fitted: Fitted, points: Points, confidence: float = 0.9, count: int = 400) -> list[Parameter]:
    """Every parameter with its interval: by profile where it can be fixed, else by bootstrap over runs."""
    name = fitted.law.name
    values = natural(name, fitted.theta[None], fitted.coordinates)
    draws = natural(name, bootstrap(fitted, points, count), fitted.coordinates)
    tail = (1 - confidence) / 2
    result = []
    for parameter, value in values.items():
        column = PROFILED[name].get(parameter)
        if column is None:
            low, high = np.nanquantile(draws[parameter], [tail, 1 - tail])
            result.append(
                Parameter(parameter, float(value[0]), float(low), float(high), "bootstrap", len(points) > len(values))
            )
        else:
            wider = inflation(fitted, points, column, confidence)
            result.append(_profiled(fitted, column, parameter, confidence, wider))
    return [_with_width(parameter) for parameter in result]


def _with_width(parameter: Parameter) -> Parameter:
    """The parameter with an interval of some width: points on a law do not say that it is exact."""
    least = THINNEST * abs(parameter.value) + TINY
    low, high = min(parameter.low, parameter.value - least), max(parameter.high, parameter.value + least)
    return replace(parameter, low=low, high=high) if parameter.high - parameter.low < least else parameter


def inflation(fitted: Fitted, points: Points, column: int, confidence: float = 0.9) -> float:
    """How many times larger the variance of a column of theta is than if the residuals were independent.

    Residuals of neighbours, of one run where runs are named, may follow each other: AR(1), whose correlation is
    averaged over its restricted likelihood, with even odds that there is none. The interval is then a quantile of a
    mixture of Student's t. Curves of one input only; without enough points it is 1. Where architectures are told,
    residuals share a level by architecture instead (`variance_components`).
    """
    from scipy.optimize import brentq
    from scipy.stats import t as student

    problem = fitted.problem
    n, p = problem.targets.shape[1], len(fitted.theta)
    if points.levels:
        return _with_levels(fitted, points, column, confidence)
    if fitted.law.inputs > 1 or n - p < FEWEST_CORRELATED:
        return 1.0
    values, jacobian = problem.model(fitted.theta[None], problem.inputs)
    root = np.sqrt(problem.weights[0])
    residual, design = root * (problem.targets - values)[0], root[:, None] * jacobian[0]
    if not np.isfinite(design).all() or np.linalg.matrix_rank(design) < p or not residual.any():
        return 1.0
    runs = np.array([str(points.runs[i]) for i in points.order]) if points.runs else np.zeros(n, dtype=str)
    odds, ratios = _correlated(residual, design, runs, column)
    plain = float(student.ppf((1 + confidence) / 2, n - p))

    def excess(factor: float) -> float:
        return float(odds @ student.sf(plain * factor / np.sqrt(ratios), n - p)) - (1 - confidence) / 2

    return float(brentq(excess, 1e-3, np.sqrt(ratios.max()) + 1.0)) ** 2


def _with_levels(fitted: Fitted, points: Points, column: int, confidence: float) -> float:
    """How many times larger the variance of a column is than by the fit at one ratio of the variances."""
    from scipy.stats import t as student

    problem, ordered = fitted.problem, points.subset(points.order)
    n, p = problem.targets.shape[1], len(fitted.theta)
    if n <= p or ordered.levels is None:
        return 1.0
    values, jacobian = problem.model(fitted.theta[None], problem.inputs)
    mixed = mixed_fit((problem.targets - values)[0], jacobian[0], ordered.levels.names)
    half = mixed.contrast(np.eye(p)[[column]]).half_width(confidence)[0]
    residual, design = (part[0] for part in problem.residuals(fitted.theta[None]))
    variance = residual @ residual / (n - p) * np.linalg.pinv(design.T @ design)[column, column]
    plain = float(student.ppf((1 + confidence) / 2, n - p) * np.sqrt(variance))
    return float(half / plain) ** 2 if plain > 0 else 1.0


def _correlated(
    residual: Floats, design: Floats, runs: npt.NDArray[np.str_], column: int
) -> tuple[Floats, Floats]:  # fmt: skip
    """Odds (k,) of each correlation of neighbours, and the ratios (k,) of a column's variance to that of independence.

    Linearised at the fit: residual (n,), design (n, p), the run of each row (n,).
    """
    together = np.argsort(runs, kind="stable")
    data = np.column_stack([residual, np.linalg.pinv(design)[column], design])[together]
    parts = np.split(data, np.flatnonzero(runs[together][1:] != runs[together][:-1]) + 1)
    (n, p), likelihoods, ratios = design.shape, [], []
    nominal = float(residual @ residual) / (n - p) * float(data[:, 1] @ data[:, 1])
    for rho in CORRELATIONS:
        white = np.concatenate([_whitened(part, rho) for part in parts])
        target, basis = white[:, 0], white[:, 2:]
        left = target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]
        squares = float(left @ left)
        determinants = (n - len(parts)) * np.log1p(-(rho**2)) + np.linalg.slogdet(basis.T @ basis)[1]
        likelihoods.append(-0.5 * (determinants + (n - p) * np.log(squares)))
        ratios.append(squares / (n - p) * sum(_quadratic(part[:, 1], rho) for part in parts) / nominal)
    odds = np.exp(np.array(likelihoods) - max(likelihoods))
    odds[1:] /= len(CORRELATIONS) - 1
    return odds / odds.sum(), np.maximum(ratios, 1e-6)


def _whitened(rows: Floats, rho: float) -> Floats:
    """Rows (n, c) of one run whose neighbours correlate by rho, made independent, of variance 1."""
    result = rows.copy()
    result[1:] = (rows[1:] - rho * rows[:-1]) / np.sqrt(1 - rho**2)
    return result


def _quadratic(a: Floats, rho: float) -> float:
    """a R a for weights a (n,) of one run, where R is rho to the power of the distance."""
    from scipy.signal import lfilter

    return float(a @ (2 * lfilter([1.0], [1.0, -rho], a) - a))


def _profiled(fitted: Fitted, column: int, name: str, confidence: float, wider: float) -> Parameter:
    """A parameter with its profile's ends in the data's units."""
    ends = np.asarray(profile(fitted, column, confidence, wider))
    bounded = np.isfinite(ends)
    rows = np.repeat(fitted.theta[None], 3, axis=0)
    rows[:2, column] = np.where(bounded, ends, fitted.theta[column] + np.array([-BEYOND, BEYOND]))
    low, high, value = natural(fitted.law.name, rows, fitted.coordinates)[name]
    if low > high:
        low, high, bounded = high, low, bounded[::-1]
    low = float(low) if bounded[0] else _open_low(float(low))
    return Parameter(name, float(value), low, float(high) if bounded[1] else np.inf, "profile", bool(bounded.all()))


def _open_low(low: float) -> float:
    """The value of an unbounded lower end: 0 for a parameter that is an exponential, else minus infinity."""
    return 0.0 if low >= 0 else -np.inf


def profile(fitted: Fitted, column: int, confidence: float = 0.9, wider: float = 1.0) -> tuple[float, float]:
    """Profile interval of a column of a fit's theta; see `profile_of`."""
    return profile_of(fitted.problem, fitted.theta, column, confidence, wider=wider)


def profile_of(
    problem: Problem, theta: Floats, column: int, confidence: float, freedom: float | None = None, *,
    wider: float = 1.0,
) -> tuple[float, float]:  # fmt: skip
    """Profile interval of a column of theta (p,): how far it can move while the others adapt.

    The column is fixed on a grid, the others are fitted again, and an end is where the objective has risen by the
    likelihood ratio's quantile. An end that is never reached is infinite: the data do not bound that side. The prior is
    left out, so that only the data count.

    Args:
        freedom: degrees of freedom of that quantile; default: points less parameters.
        wider: by how much the variance is larger than with independent residuals (`inflation`).
    """
    from scipy.stats import f as f_distribution

    without_prior = replace(problem, prior=None)
    n, p = problem.targets.shape[1], len(theta)
    if n <= p:
        return -np.inf, np.inf  # a law through every point: no residuals are left to judge it by
    steps = np.geomspace(NEAR, REACH, STEPS)
    offsets = np.concatenate([-steps[::-1], [0.0], steps])
    objective = _held_objective(without_prior, theta, column, offsets)
    best = max(float(np.nanmin(objective)), 1e-12 * n)
    quantile = float(f_distribution.ppf(confidence, 1, n - p if freedom is None else freedom))
    limit = best * (1 + wider * quantile / (n - p))
    middle = len(steps)
    root, limit = np.sqrt(np.maximum(objective - best, 0.0)), float(np.sqrt(limit - best))
    low = _crossing(offsets[: middle + 1][::-1], root[: middle + 1][::-1], limit)
    high = _crossing(offsets[middle:], root[middle:], limit)
    return float(theta[column] + low), float(theta[column] + high)


def _crossing(offsets: Floats, root: Floats, limit: float) -> float:
    """Where the root of the objective's rise passes the limit for good; offsets run outwards from 0.

    The root of a parabola is straight, so that a straight line between two steps of the grid loses nothing.
    """
    below = np.flatnonzero(root <= limit)
    last = int(below[-1]) if below.size else 0
    if last + 1 >= len(offsets):
        return float(np.sign(offsets[-1]) * np.inf)
    rise = root[last + 1] - root[last]
    share = (limit - root[last]) / rise if np.isfinite(rise) and rise > 0 else 0.0
    return float(offsets[last] + np.clip(share, 0, 1) * (offsets[last + 1] - offsets[last]))


def _held_objective(problem: Problem, theta: Floats, column: int, offsets: Floats) -> Floats:
    """The least objective with one column of theta held at each offset (K,)."""
    held = theta[column] + offsets  # (K,)
    n = problem.inputs.shape[1]
    inputs = np.concatenate(
        [
            np.broadcast_to(problem.inputs[0], (len(held), n, problem.inputs.shape[2])),
            np.broadcast_to(held[:, None, None], (len(held), n, 1)),
        ],
        axis=2,
    )
    reduced = replace(problem, model=partial(_with_held, problem.model, column), inputs=inputs, prior=None)
    others = np.delete(theta, column)
    return solve(reduced, np.repeat(others[None], len(held), axis=0), iterations=60, tolerance=1e-8).objective


def _with_held(model: Model, column: int, theta: Floats, inputs: Floats) -> tuple[Floats, Floats]:
    """A model whose one column is the last input instead of a parameter."""
    full = np.insert(theta, column, inputs[:, 0, -1], axis=1)
    values, jacobian = model(full, inputs[..., :-1])
    return values, np.delete(jacobian, column, axis=2)
