"""Compute-optimal frontier: how to split compute by a joint law, or by iso-FLOP profiles without a law.

Compute is C = k N D. Under L = E + A N^-alpha + B D^-beta the best N grows as C^(beta / (alpha + beta)) and the best D
as C^(alpha / (alpha + beta)) (Hoffmann et al. 2022).

Legend: K resamples, n runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from analysis.arrays import Floats
from analysis.fitting.estimate import Fitted, Points
from analysis.fitting.intervals import bootstrap
from analysis.fitting.parameters import natural, parameters, profile_of
from analysis.laws.forms import Model, sigmoid
from analysis.laws.metric import Metric

FEWEST_PER_BUDGET = 3  # runs that a parabola needs
EXPONENTS = ("alpha", "beta")
WIDEST = 5.0  # largest factor by which a resampled interval is widened
ALPHA, BETA = 3, 4  # their columns in theta
JOINT = ("joint", "data_constrained")


@dataclass(frozen=True)
class Exponent:
    """An exponent with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Frontier:
    """Compute-optimal allocation: N = size_at_one C^a and D = data_at_one C^b, a + b = 1."""

    size_exponent: Exponent
    data_exponent: Exponent
    compute: Floats  # (m,)
    size: Floats  # (m,) best N at each compute
    size_low: Floats
    size_high: Floats
    data: Floats  # (m,)
    loss: Floats  # (m,) predicted by the law


def compute_optimal(
    fitted: Fitted, points: Points, compute: Sequence[float], *, per_unit: float = 6.0, confidence: float = 0.9,
    count: int = 1000,
) -> Frontier:  # fmt: skip
    """The best model size and data at each compute: exponents with profile intervals, sizes with bootstrap intervals.

    Args:
        fitted: the law `joint`; or `data_constrained`, whose frontier assumes that data are never repeated.
        points: the runs it was fitted to.
        compute: budgets C.
        per_unit: k in C = k N D; 6 FLOPs per parameter and token, or the convention's cost.

    Raises:
        ValueError: the law has one input.
    """
    name = fitted.law.name
    if name not in JOINT:
        raise ValueError(f"a frontier needs the law {' or '.join(JOINT)}, not {name}")
    budgets = np.asarray(compute, dtype=np.float64)
    share, size = _allocation(natural(name, fitted.theta[None], fitted.coordinates), budgets / per_unit)
    draws = natural(name, bootstrap(fitted, points, count), fitted.coordinates)
    shares, sizes = _allocation(draws, budgets / per_unit)
    tail = (1 - confidence) / 2
    low, high = _share_interval(fitted, confidence)
    # resampled sizes vary too little, by the same factor as resampled exponents
    resampled = np.nanquantile(shares, [tail, 1 - tail])
    wider = np.clip((high - low) / max(float(np.ptp(resampled)), 1e-12), 1.0, WIDEST)
    size_low, size_high = size[0] * (np.nanquantile(sizes, [tail, 1 - tail], axis=0) / size[0]) ** wider
    data = budgets / per_unit / size[0]
    return Frontier(
        Exponent(float(share[0]), float(low), float(high)),
        Exponent(float(1 - share[0]), float(1 - high), float(1 - low)),
        budgets, size[0], size_low, size_high, data,
        fitted.predict(np.column_stack([size[0], *[data] * (fitted.law.inputs - 1)])),
    )  # fmt: skip


def _allocation(values: dict[str, Floats], product: Floats) -> tuple[Floats, Floats]:
    """Exponents (K,) of the best N, and best N (K, m), where N D is given (m,)."""
    alpha, beta = values["alpha"], values["beta"]
    share = beta / (alpha + beta)
    with np.errstate(all="ignore"):
        log_g = (np.log(alpha) + np.log(values["A"]) - np.log(beta) - np.log(values["B"])) / (alpha + beta)
        size = np.exp(log_g[:, None] + share[:, None] * np.log(product))
    return share, size


def _share_interval(fitted: Fitted, confidence: float) -> tuple[float, float]:
    """Profile interval of beta / (alpha + beta), by that of log beta - log alpha in place of log beta."""
    theta = fitted.theta.copy()
    theta[BETA] -= theta[ALPHA]
    problem = replace(fitted.problem, model=partial(_by_difference, fitted.problem.model))
    ends = np.asarray(profile_of(problem, theta, BETA, confidence))
    low, high = sigmoid(ends)
    return float(low), float(high)


def _by_difference(model: Model, theta: Floats, inputs: Floats) -> tuple[Floats, Floats]:
    """A joint law whose column of log beta holds log beta - log alpha."""
    full = theta.copy()
    full[:, BETA] += full[:, ALPHA]
    values, jacobian = model(full, inputs)
    jacobian = jacobian.copy()
    jacobian[..., ALPHA] += jacobian[..., BETA]
    return values, jacobian


@dataclass(frozen=True)
class Split:
    """A frontier, the exponents it depends on that the runs do not identify, and an exponent without a law."""

    frontier: Frontier
    unidentified: tuple[str, ...]  # of alpha and beta: those that the runs bound on one side or not at all
    iso_flop: Exponent | None  # of the best size; None where too few budgets enclose their minimum


def split(
    fitted: Fitted, points: Points, compute: Sequence[float] = (), *, per_unit: float = 6.0, confidence: float = 0.9
) -> Split:
    """The compute-optimal split by a joint law of the runs, and whether the runs identify it.

    Args:
        fitted: a joint law of `points`.
        points: the runs; inputs are size first, data last.
        compute: budgets; default: the largest of the runs, and ten times that.
        per_unit: k in C = k N D.
        confidence: of every interval.
    """
    spent = per_unit * points.x[:, 0] * points.x[:, -1]
    budgets = compute if len(compute) else (float(spent.max()), 10 * float(spent.max()))
    unidentified = tuple(
        parameter.name
        for parameter in parameters(fitted, points, confidence)
        if parameter.name in EXPONENTS and not parameter.identified
    )
    frontier = compute_optimal(fitted, points, budgets, per_unit=per_unit, confidence=confidence)
    try:
        exponent = iso_flop_exponent(iso_flop(points, spent, metric=fitted.coordinates.metric), confidence=confidence)
    except ValueError:
        exponent = None
    return Split(frontier, unidentified, exponent)


@dataclass(frozen=True)
class IsoFlop:
    """One budget's parabola in log N: where loss is least, and whether the runs enclose it."""

    compute: float
    size: float
    loss: float  # for a share, its distance from the bound
    runs: int
    enclosed: bool


def iso_flop(points: Points, compute: Floats, *, per_decade: int = 2, metric: Metric | None = None) -> list[IsoFlop]:
    """Read the best size at each budget off parabolas of the metric in log N (Hoffmann et al., approach 2).

    Args:
        points: x (n, 2) of size and data.
        compute: (n,) of each run; runs within 1 / per_decade of a decade share a budget.
        metric: what kind of number y is; default: a loss.
    """
    budgets = np.round(np.log10(compute) * per_decade) / per_decade
    distance = (metric or Metric("loss")).distance(points.y)
    minima = []
    for budget in np.unique(budgets):
        inside = budgets == budget
        log_size, loss = np.log(points.x[inside, 0]), distance[inside]
        if len(np.unique(log_size)) < FEWEST_PER_BUDGET:
            continue
        bend, slope, level = np.polyfit(log_size, loss, 2)
        if bend <= 0:
            continue  # no minimum to read
        best = -slope / (2 * bend)
        enclosed = bool(log_size.min() <= best <= log_size.max())
        least = float(level - slope**2 / (4 * bend))
        minima.append(IsoFlop(float(10**budget), float(np.exp(best)), least, int(inside.sum()), enclosed))
    return minima


def iso_flop_exponent(readings: Sequence[IsoFlop], *, confidence: float = 0.9) -> Exponent:
    """The power of compute that the best sizes follow, by least squares of logs over enclosed minima.

    Raises:
        ValueError: fewer than 3 enclosed minima.
    """
    from scipy import stats

    enclosed = [reading for reading in readings if reading.enclosed]
    if len(enclosed) < FEWEST_PER_BUDGET:
        raise ValueError(f"{len(enclosed)} budgets whose runs enclose their minimum; an exponent needs 3")
    regression = stats.linregress(
        np.log([reading.compute for reading in enclosed]), np.log([reading.size for reading in enclosed])
    )
    half = float(stats.t.ppf((1 + confidence) / 2, len(enclosed) - 2) * regression.stderr)
    return Exponent(float(regression.slope), float(regression.slope) - half, float(regression.slope) + half)
