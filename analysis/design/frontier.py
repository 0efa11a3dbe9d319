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
import numpy.typing as npt

from analysis.arrays import Floats
from analysis.fitting.estimate import Fitted, Points
from analysis.fitting.intervals import bootstrap
from analysis.fitting.parameters import natural, parameters, profile_of
from analysis.laws.forms import Model, sigmoid
from analysis.laws.metric import Metric

FEWEST_PER_BUDGET = 3  # runs that a parabola needs
SAME_BUDGET = 0.005  # decades: gaps within a budget, whatever the others are
EXACT = 1e-3  # half width where the minima lie on a line: parabolas are not better than that
BORDERS = (0.1, 0.05, 0.03, 0.02, 0.01)
DISTINCT = 1.5  # ratio of neighbouring widths from which gaps are of two kinds
WIDEST_BUDGET = 0.25  # decades
OFF_CENTRE = 0.3  # in halves of a budget's range of log N
EXPONENTS = ("alpha", "beta")
WIDEST = 5.0  # largest factor by which a resampled interval is widened
ALPHA, BETA = 3, 4  # their columns in theta
JOINT = ("joint", "data_constrained", "overfitting")


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
        fitted: the law `joint`; or a law of repeated data, whose frontier assumes that no data are repeated.
        points: the runs it was fitted to.
        compute: budgets C.
        per_unit: k in C = k N D; 6 FLOPs per parameter and token, or the convention's cost.

    Raises:
        ValueError: the law has one input.
    """
    name = fitted.law.name
    if name not in JOINT:
        raise ValueError(f"a frontier needs the law {' or '.join(JOINT)}, not {name}")
    product = np.asarray(compute, dtype=np.float64) / per_unit
    share, size = _allocation(natural(name, fitted.theta[None], fitted.coordinates), product)
    draws = natural(name, bootstrap(fitted, points, count), fitted.coordinates)
    shares, sizes = _allocation(draws, product)
    tail = (1 - confidence) / 2
    low, high, wider = share_interval(fitted, shares, confidence)
    size_low, size_high = size[0] * (np.nanquantile(sizes, [tail, 1 - tail], axis=0) / size[0]) ** wider
    data = product / size[0]
    return Frontier(
        Exponent(float(share[0]), low, high),
        Exponent(float(1 - share[0]), 1 - high, 1 - low),
        per_unit * product, size[0], size_low, size_high, data,
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


def share_interval(fitted: Fitted, shares: Floats, confidence: float) -> tuple[float, float, float]:
    """Profile interval of beta / (alpha + beta), and how many times wider it is than that of resampled shares (K,).

    Resampled sizes vary too little, by the same factor as resampled exponents. The profile is that of log beta - log
    alpha in place of log beta.
    """
    theta = fitted.theta.copy()
    theta[BETA] -= theta[ALPHA]
    problem = replace(fitted.problem, model=partial(_by_difference, fitted.problem.model))
    ends = np.asarray(profile_of(problem, theta, BETA, confidence))
    low, high = map(float, sigmoid(ends))
    tail = (1 - confidence) / 2
    resampled = float(np.ptp(np.nanquantile(shares, [tail, 1 - tail])))
    return low, high, float(np.clip((high - low) / max(resampled, 1e-12), 1.0, WIDEST))


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
    warnings: tuple[str, ...] = ()  # where the parabolas are biased, or disagree with the law


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
    asked = compute if len(compute) else (float(spent.max()), 10 * float(spent.max()))
    unidentified = tuple(
        parameter.name
        for parameter in parameters(fitted, points, confidence)
        if parameter.name in EXPONENTS and not parameter.identified
    )
    frontier = compute_optimal(fitted, points, asked, per_unit=per_unit, confidence=confidence)
    readings = iso_flop(points, spent, metric=fitted.coordinates.metric)
    try:
        exponent = iso_flop_exponent(readings, confidence=confidence)
    except ValueError:
        return Split(frontier, unidentified, None)
    return Split(frontier, unidentified, exponent, tuple(_doubts(frontier.size_exponent, exponent, readings)))


def _doubts(law: Exponent, parabolas: Exponent, readings: Sequence[IsoFlop]) -> list[str]:
    """Why iso-FLOP parabolas should not be trusted beside a joint law."""
    doubts = []
    lopsided = [reading for reading in readings if reading.enclosed and abs(reading.off_centre) > OFF_CENTRE]
    if lopsided:
        doubts.append(
            f"the minima of {len(lopsided)} budgets are far from the middle of their sizes: a parabola is biased there "
            "(noise-free by up to a third of the best size), and the law is not"
        )
    if law.high < parabolas.low or parabolas.high < law.low:
        doubts.append(
            f"the parabolas' exponent {parabolas.value:.3f} [{parabolas.low:.3f}, {parabolas.high:.3f}] disagrees with "
            f"the law's {law.value:.3f} [{law.low:.3f}, {law.high:.3f}]"
        )
    return doubts


@dataclass(frozen=True)
class IsoFlop:
    """One budget's parabola in log N: where loss is least, and whether the runs enclose it."""

    compute: float
    size: float
    loss: float  # for a share, its distance from the bound
    runs: int
    enclosed: bool
    off_centre: float = 0.0  # of the minimum, in halves of the range of log N: 0 in its middle, 1 at its end


def budgets(compute: Floats) -> npt.NDArray[np.intp]:
    """The budget that each run (n,) belongs to, by gaps in the log of compute: those between budgets are the wide ones.

    The border is where the ordered widths of the gaps grow most. If runs between the budgets hide it, it is the one of
    `BORDERS` that leaves the most runs in budgets. Runs within 1% always share a budget.
    """
    order = np.argsort(compute)
    logs = np.log10(compute[order])
    gaps = np.diff(logs)
    widths = np.sort(np.maximum(gaps, SAME_BUDGET))
    ratios = widths[1:] / widths[:-1]
    at = int(np.argmax(ratios)) if ratios.size else 0
    clear = ratios.size > 0 and ratios[at] > DISTINCT
    borders = ([float(np.sqrt(widths[at] * widths[at + 1]))] if clear else []) + list(BORDERS)
    splits = [np.concatenate([[0], np.cumsum(gaps > border)]) for border in borders]
    best = max(splits, key=lambda split: _in_budgets(split, logs))  # the first of equals
    labels = np.empty(len(compute), dtype=np.intp)
    labels[order] = best
    return labels


def _in_budgets(labels: npt.NDArray[np.intp], logs: Floats) -> int:
    """How many runs are in groups that may be budgets: of enough runs, within little compute."""
    return sum(
        int(inside.sum())
        for inside in (labels == label for label in np.unique(labels))
        if inside.sum() >= FEWEST_PER_BUDGET and np.ptp(logs[inside]) <= WIDEST_BUDGET
    )


def iso_flop(points: Points, compute: Floats, *, metric: Metric | None = None) -> list[IsoFlop]:
    """Read the best size at each budget off parabolas of the metric in log N (Hoffmann et al., approach 2).

    Args:
        points: x (n, 2) of size and data.
        compute: (n,) of each run; `budgets` says which share one. A budget wider than a quarter of a decade is none.
        metric: what kind of number y is; default: a loss.
    """
    labels = budgets(compute)
    distance = (metric or Metric("loss")).distance(points.y)
    minima = []
    for label in np.unique(labels):
        inside = labels == label
        log_size, loss, spent = np.log(points.x[inside, 0]), distance[inside], np.log10(compute[inside])
        if len(np.unique(log_size)) < FEWEST_PER_BUDGET or np.ptp(spent) > WIDEST_BUDGET:
            continue
        bend, slope, level = np.polyfit(log_size, loss, 2)
        if bend <= 0:
            continue  # no minimum to read
        best = -slope / (2 * bend)
        enclosed = bool(log_size.min() <= best <= log_size.max())
        least = float(level - slope**2 / (4 * bend))
        half = np.ptp(log_size) / 2
        aside = float((best - (log_size.min() + half)) / half)
        budget = float(10 ** spent.mean())
        minima.append(IsoFlop(budget, float(np.exp(best)), least, int(inside.sum()), enclosed, aside))
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
    half = max(float(stats.t.ppf((1 + confidence) / 2, len(enclosed) - 2) * regression.stderr), EXACT)
    return Exponent(float(regression.slope), float(regression.slope) - half, float(regression.slope) + half)
