"""The kind of each group's metric, from the column's name, the group's own values, and their trend.

A table may hold several metrics: each group is judged by its own values, and says so where they contradict its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats, Mask
from analysis.laws.metric import CLEARLY_FALLING, ERROR_RATES, LOSSES, OVER, PER_CENT, SHARES, Metric

Unit = Literal["fraction", "per cent", "unclear"]
BOUNDS: dict[Unit, float] = {"fraction": 1.0, "per cent": 100.0}
STRAY = 0.1  # share of a group's values that may lie beyond its bound: mistakes, left out of the fit
FEW_ARE_ALL = 4  # in a smaller group no value is a stray one
LEAST_PER_CENT = 5.0  # values that never exceed it may as well be something else than per cent
OWN_TREND, ENOUGH = 0.9, 5  # rank correlation, and points, from which a group's own trend decides


@dataclass(frozen=True)
class GroupValues:
    """A group's points: compute and metric of those that are fitted (n,), and the metric of all its points."""

    label: str
    x: Floats
    y: Floats
    everywhere: Floats


@dataclass(frozen=True)
class Values:
    """A column's rows with the label of each row's group."""

    labels: npt.NDArray[Any]  # (rows,)
    x: Floats  # (rows,) compute, or the product of the inputs
    y: Floats  # (rows,)
    fitted: Mask  # (rows,) of these rows
    usable: Mask  # (rows,) all that have numbers


@dataclass(frozen=True)
class Guess:
    """A group's metric, and what to say of it; None if its name and values agree."""

    metric: Metric
    note: str | None = None


def guess_by_label(name: str, values: Values) -> dict[str, Guess]:
    """The kind of every label's rows. One without rows to fit is taken for what the first of the others is."""
    labels = list(dict.fromkeys(values.labels.tolist()))
    groups = []
    for label in labels:
        own = values.labels == label
        rows, everywhere = own & values.fitted, own & values.usable
        if rows.any():
            groups.append(GroupValues(label, values.x[rows], values.y[rows], values.y[everywhere]))
    found = {group.label: guess for group, guess in zip(groups, guess_metrics(name, groups), strict=True)}
    others = next(iter(found.values()), Guess(Metric("score")))
    return {label: found.get(label, others) for label in labels}


def guess_metrics(name: str, groups: Sequence[GroupValues]) -> list[Guess]:
    """The kind of every group of a column.

    Where the name could be either (`top1_error`), or gives no hint, the group's label may, and the trend decides: a
    group's own trend if it is steady, else the mean over groups. Per cent or fraction is decided by each group's
    values; only where they leave it open, the column's name and the other groups do.
    """
    trends = [_trend(group.x, group.y) for group in groups]
    known = [trend for trend in trends if trend is not None]
    mean = float(np.mean(known)) if known else 0.0
    units = _units(name, [group.everywhere for group in groups])
    guesses = []
    for group, trend, unit in zip(groups, trends, units, strict=True):
        steady = trend is not None and abs(trend) >= OWN_TREND and len(group.y) >= ENOUGH
        guesses.append(_guess(name, group, trend if steady and trend is not None else mean, unit))
    return guesses


def _guess(name: str, group: GroupValues, trend: float, unit: Unit) -> Guess:
    share, loss = _named(name, group.label, trend)
    lowest, highest = float(group.everywhere.min()), float(group.everywhere.max())
    if loss and lowest >= 0:
        rate = SHARES.search(name) or (ERROR_RATES.search(name) and (highest <= 1 or PER_CENT.search(name)))
        top = BOUNDS.get(unit, math.inf)
        return Guess(Metric("loss", top=top if rate and highest <= top else math.inf))
    if lowest >= 0 and unit != "unclear" and (share or (trend > 0 and highest <= 1)):
        return Guess(Metric("share", bound=BOUNDS[unit]))
    falls = lowest > 0 and trend <= 0
    found = Metric("loss") if falls else Metric("score", falling=trend <= 0)
    named = "share" if share else "loss" if loss else None
    if named is None or named == found.kind:
        return Guess(found)
    return Guess(found, f"named as a {named}, but its values of {lowest:.4g} to {highest:.4g} fit none: {_DECIDE}")


_DECIDE = "fitted as what they are (--metric and --bound decide otherwise)"


def _named(name: str, label: str, trend: float) -> tuple[bool, bool]:
    """Whether the names make it a share, or a loss; at most one of them."""
    share, loss = bool(SHARES.search(name)), bool(LOSSES.search(name))
    if not share and not loss:  # a column `value`: the label of its group may say, if the trend does not deny it
        share, loss = bool(SHARES.search(label)), bool(LOSSES.search(label))
        share, loss = share and trend > CLEARLY_FALLING, loss and trend <= 0
    if (share and loss) or (share and trend < CLEARLY_FALLING):
        share, loss = trend > 0, trend <= 0
    return share, loss


def _units(name: str, groups: Sequence[Floats]) -> list[Unit]:
    """Whether each group is in fractions or per cent; groups that leave it open go with all the others."""
    if PER_CENT.search(name):
        return ["per cent" if _within(values, 100.0) else "unclear" for values in groups]
    units = [_unit(values) for values in groups]
    clear = {unit for unit in units if unit != "unclear"}
    if clear == {"per cent"}:
        return ["per cent" if _within(values, 100.0) else unit for values, unit in zip(groups, units, strict=True)]
    return [_with_strays(values) if unit == "unclear" else unit for values, unit in zip(groups, units, strict=True)]


def _unit(values: Floats) -> Unit:
    over = values > OVER
    if not over.any():
        return "fraction"
    if over.mean() >= 0.5 and values.max() > LEAST_PER_CENT and _within(values, 100.0):
        return "per cent"
    return "unclear"


def _with_strays(values: Floats) -> Unit:
    """A group of fractions, if all but a few stray values are."""
    return "fraction" if _within(values, 1.0) else "unclear"


def _within(values: Floats, bound: float) -> bool:
    """Whether all values but a few stray ones keep to a bound."""
    beyond = int(np.sum(values > bound * OVER))
    most = max(1, int(STRAY * len(values))) if len(values) >= FEW_ARE_ALL else 0
    return beyond <= most


def _trend(x: Floats, y: Floats) -> float | None:
    """Rank correlation of y with x; None where there is none to see."""
    if len(y) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
