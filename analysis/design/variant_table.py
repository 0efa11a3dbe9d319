"""Read a table of results into the runs of each variant, and compare every variant with the baseline."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analysis.arrays import Names
from analysis.design.compare import Comparison, compare
from analysis.design.pairs import Variant
from analysis.fitting.read_results import Columns, Curve, ResultsTableError, curves
from analysis.laws.metric import Metric
from analysis.tables.names import BLANK, name_of, names_of
from analysis.tables.series import column_of

if TYPE_CHECKING:
    import pandas as pd

ROW = "row of the table"  # a column that is added, so that points can be traced to their rows


@dataclass(frozen=True)
class Roles:
    """Columns that say which runs are compared; none is needed but `variant`."""

    variant: str
    baseline: str | None = None  # a value of `variant`; default: the first in the table
    cell: tuple[str, ...] = ()  # together the design of a run; default: runs of the same compute are of one design
    seed: str | None = None
    run: str | None = None  # of each row where there are several rows per run: the one of most compute counts


@dataclass(frozen=True)
class Group:
    """Comparisons of one group of rows, in the order of the table, and the reasons why others failed."""

    name: str
    comparisons: tuple[Comparison, ...]
    failed: Mapping[str, str]  # by variant
    notes: tuple[str, ...]


def compare_table(
    table: pd.DataFrame, columns: Columns, roles: Roles, *, where: str | None = None, metric: Metric | None = None,
    law: str = "auto", at: Sequence[float] = (), confidence: float = 0.9,
) -> tuple[list[Group], Metric]:  # fmt: skip
    """Every variant against the baseline, in each group of a table; and the metric of the first group.

    Args:
        table: a row per run, or per checkpoint if `roles` names the run.
        columns: compute, metric and groups.
        where: an expression that selects rows.
        metric: what kind of number the metric is; default: guessed.
        law: as for `compare`; likewise `at` and `confidence`.

    Raises:
        ValueError: a column that cannot be used, fewer than two variants, or a baseline that is not there.
    """
    table = table.assign(**{ROW: np.arange(len(table)).astype(str)})
    grouped = replace(columns, group=(*columns.group, roles.variant), run=ROW, kinds=columns.group)
    curve_list, first = curves(table, grouped, where, metric)
    names, group_names = _names(table, [roles.variant]), _names(table, columns.group)
    by_group: dict[str, dict[str, Curve]] = {}
    for curve in curve_list:
        if len(curve.train):
            row = int(str(curve.train.runs[0]))
            by_group.setdefault(str(group_names[row]), {})[str(names[row])] = curve
    baseline = _baseline(list(dict.fromkeys(names.tolist())), roles)
    labels = _labels(table, roles)
    groups = []
    for group, members in by_group.items():
        variants = {name: _variant(name, curve, labels) for name, curve in members.items()}
        notes = tuple(f"{name}: {note}" for name, curve in members.items() for note in curve.notes)
        guess = next(iter(members.values())).guess
        notes += (guess.note,) if guess.note else ()
        notes += (guess.metric.describe,) if guess.metric != first else ()
        groups.append(_compared(group, variants, baseline, notes, guess.metric, law, at, confidence))
    return groups, first


def _compared(
    name: str, variants: Mapping[str, Variant], baseline: str, notes: tuple[str, ...], metric: Metric, law: str,
    at: Sequence[float], confidence: float,
) -> Group:  # fmt: skip
    """One group; a variant that cannot be compared does not stop the others."""
    comparisons, failed = [], {}
    others = [other for other in variants if other != baseline]
    if baseline not in variants:
        failed = dict.fromkeys(others, f"no usable row of the baseline {baseline}")
    elif not others:
        failed = {baseline: "no usable row of another variant to compare it with"}
    else:
        for other in others:
            try:
                comparisons.append(
                    compare(variants[baseline], variants[other], metric, law=law, at=at, confidence=confidence)
                )
            except ValueError as error:
                failed[other] = str(error)
    return Group(name, tuple(comparisons), failed, notes)


def _baseline(names: Sequence[str], roles: Roles) -> str:
    """The baseline's name as the table has it."""
    if len(names) < 2:
        raise ResultsTableError(f"--variant {roles.variant}: every row is {names[0]}; a comparison needs two variants")
    if roles.baseline is None:
        return names[0]
    wanted = name_of(roles.baseline, roles.variant)
    if wanted not in names:
        near = difflib.get_close_matches(wanted, names, 1, 0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ResultsTableError(f"--baseline: no {wanted!r} in {roles.variant}{hint} (there are {', '.join(names)})")
    return wanted


@dataclass(frozen=True)
class _Labels:
    """Names of each row of the table, each (rows,); None where no column says."""

    cell: Names | None
    seed: Names | None
    run: Names | None


def _labels(table: pd.DataFrame, roles: Roles) -> _Labels:
    return _Labels(
        _names(table, roles.cell) if roles.cell else None,
        _names(table, [roles.seed]) if roles.seed else None,
        _names(table, [roles.run]) if roles.run else None,
    )


def _names(table: pd.DataFrame, columns: Sequence[str]) -> Names:
    """The names of each row in some columns, joined (rows,); `all` without columns, as groups are called."""
    labels = [names_of(column_of(table[name]), name) for name in columns]
    joined = [" / ".join(text or BLANK for text in row) for row in zip(*labels, strict=True)]
    return np.array(joined or ["all"] * len(table), dtype=object)


def _variant(name: str, curve: Curve, labels: _Labels) -> Variant:
    """The finished runs of a curve."""
    points = curve.train
    rows = np.array([int(str(row)) for row in points.runs])
    if labels.run is not None:
        last = _last_of_each(labels.run[rows], points.x[:, 0])
        points, rows = points.subset(last), rows[last]
    cells, seeds = (tuple(of[rows].tolist()) if of is not None else () for of in (labels.cell, labels.seed))
    return Variant(name, points.x[:, 0], points.y, cells, seeds)


def _last_of_each(runs: Names, compute: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Index of the point of most compute of each run."""
    last: dict[object, int] = {}
    for index, run in enumerate(runs.tolist()):
        if run not in last or compute[index] >= compute[last[run]]:
            last[run] = index
    return np.array(list(last.values()), dtype=np.intp)
