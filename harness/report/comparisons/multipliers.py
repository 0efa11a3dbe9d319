"""Compute multipliers of a study: each value of each axis, and each variant, against its baseline.

The baseline is the recipe's own value where that is on the axis, else the first. Runs are compared within one point of
the other axes, and losses within one patch size: those of two are of two tasks.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from harness.grid.cell import Cell
from harness.grid.cell_folder import PAIR_OUTCOMES
from harness.recipe.axes import END, VARIANT, axis_names, point_name
from harness.recipe.schema import Recipe
from harness.report.points import for_laws, points, trained_runs
from harness.storage.pair_outcomes import read_outcomes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.design.compare import Comparison, Multiplier
    from analysis.design.pairs import Variant

Names = dict[Hashable, str]  # of the values on an axis; 1 and 1.0 are one value
LOSS = "validation loss"
TASK_FIELDS = (
    "mae.crop", "mae.channels", "mae.channel_names", "mae.value_range", "mae.mask_ratio", "mae.fourier_", "datasets.",
    "train.validation_", ".patch", ".mask_patch", ".fourier_weight", ".kind",
)  # fmt: skip
"""Parts of fields that change what a validation loss is of."""


@dataclass(frozen=True)
class Compared:
    """One variant against the baseline by one metric: a comparison, or why there is none."""

    variant: str
    metric: str
    comparison: Comparison | None
    failed: str = ""

    @property
    def label(self) -> str:
        return f"{self.variant}: {self.metric}"


@dataclass(frozen=True)
class AxisComparisons:
    """All comparisons along one axis."""

    axis: str  # a field's path, or `variant`
    baseline: str
    why: str  # this is the baseline
    compared: tuple[Compared, ...]
    notes: tuple[str, ...]


def multipliers(recipe: Recipe, grid: Sequence[Cell]) -> list[AxisComparisons]:
    """The comparisons along every axis with two values or more, under the recipe's convention of compute."""
    axes = _axes(recipe)
    runs = _runs(recipe, grid) if axes else None
    return [] if runs is None else [_along(recipe, grid, axis, values, runs) for axis, values in axes.items()]


def _runs(recipe: Recipe, grid: Sequence[Cell]) -> pd.DataFrame:
    """A row per run and metric, of those that laws are fitted to: with columns metric and y."""
    import pandas as pd

    convention = recipe.fit.convention
    losses = for_laws(trained_runs(recipe, grid, convention), recipe.fit)
    recalls = for_laws(points(recipe, grid, convention), recipe.fit)
    recalls = recalls[recalls["trained"].astype(bool)]
    several = losses["patch"].nunique() > 1
    patches = [f"{LOSS}, patch {patch}" if several else LOSS for patch in losses["patch"]]
    losses = losses.assign(metric=patches, y=losses["loss"])
    recalls = recalls.assign(metric=[f"recall, {source}" for source in recalls["source"]], y=recalls["recall"])
    parts = [losses.assign(outcomes=None), recalls.assign(outcomes=_outcomes(recipe, recalls))]
    places = [*axis_names(recipe.grid), *([END] if END in losses else [])]  # branches of one run differ in their end
    kept = ["cell", "model", "dataset", "seed", "compute", "metric", "y", "outcomes", *places]
    return pd.concat([part[kept] for part in parts if len(part)] or [parts[0][kept]], ignore_index=True)


def _outcomes(recipe: Recipe, recalls: pd.DataFrame) -> pd.Series:
    """Which pairs each recall is of; None if its cell does not tell."""
    import pandas as pd

    by_cell = {
        str(cell): read_outcomes(
            recipe.output / "cells" / str(cell) / PAIR_OUTCOMES, dict(zip(rows["source"], rows["recall"], strict=True))
        )
        for cell, rows in recalls.groupby("cell", sort=False)
    }  # fmt: skip
    rows = zip(recalls["cell"], recalls["source"], strict=True)
    return pd.Series([by_cell[str(cell)].get(source) for cell, source in rows], index=recalls.index, dtype=object)


def _axes(recipe: Recipe) -> dict[str, Names]:
    """The values on each axis that has two or more."""
    axes = {VARIANT: list(recipe.grid.variants)} | {name: list(values) for name, values in recipe.grid.axes.items()}
    return {axis: {_scalar(value): str(_scalar(value)) for value in values} for axis, values in axes.items()
            if len(values) > 1}  # fmt: skip


def _scalar(value: JsonValue) -> Hashable:
    """The value as a cell's labels have it."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _baseline(recipe: Recipe, axis: str, names: Names) -> tuple[str, str]:
    """The baseline on an axis, and why it is that."""
    first = next(iter(names.values()))
    if axis == VARIANT:
        own = next((name for name, fields in recipe.grid.variants.items() if not fields), None)
        return (own, "it changes no field of the recipe") if own else (first, "the first variant")
    value: Any = recipe.model_dump(mode="json")
    for key in axis.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    own = names.get(_scalar(value))
    return (own, "the recipe's own value") if own else (first, "the first on the axis")


def _along(recipe: Recipe, grid: Sequence[Cell], axis: str, names: Names, runs: pd.DataFrame) -> AxisComparisons:
    baseline, why = _baseline(recipe, axis, names)
    others = [name for name in axis_names(recipe.grid) if name != axis]
    notes = []
    if _changes_task(recipe, axis):
        notes.append(f"values of {axis} change what a validation loss is of, so losses are not compared")
        runs = runs[~runs["metric"].str.startswith(LOSS)]
    runs = runs[runs[axis].notna()].assign(side=lambda rows: [names.get(value, "") for value in rows[axis]])
    todo = _open(grid, axis, names, set(runs["cell"]))
    compared = [
        _compared(f"{value}, {where}" if where else value, metric, part, (baseline, value), todo)
        for metric, where, part in _parts(runs, others)
        for value in names.values()
        if value != baseline
    ]
    if not compared:
        notes.append(f"no cell on this axis is finished yet; {sum(todo.values())} are open")
    return AxisComparisons(axis, baseline, why, tuple(compared), tuple(notes))


def _changes_task(recipe: Recipe, axis: str) -> bool:
    """Whether losses along an axis are of different tasks."""
    fields = [path for changes in recipe.grid.variants.values() for path in changes] if axis == VARIANT else [axis]
    return any(part in path for path in fields for part in TASK_FIELDS)


def _open(grid: Sequence[Cell], axis: str, names: Names, done: set[str]) -> dict[str, int]:
    """Trained cells that are not finished yet, by their value on an axis."""
    counts: dict[str, int] = {}
    for cell in grid:
        name = names.get(_scalar(cell.labels().get(axis)))
        if cell.kind == "trained" and name is not None:
            counts[name] = counts.get(name, 0) + (cell.id not in done)
    return counts


def _parts(runs: pd.DataFrame, others: Sequence[str]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The runs of each metric at each point of the other axes: metric, point in words, runs."""
    places = [
        point_name({str(name): None if value != value else value for name, value in row.items()})  # NaN: off that axis
        for row in runs[list(others)].to_dict("records")
    ] if others else [""] * len(runs)  # fmt: skip
    for (metric, where), part in runs.assign(where=places).groupby(["metric", "where"], sort=False):
        yield str(metric), str(where), part


def _compared(name: str, metric: str, part: pd.DataFrame, sides: tuple[str, str], todo: Mapping[str, int]) -> Compared:
    """The comparison of a variant (second) with the baseline (first), or what is missing for it."""
    from analysis.design.compare import FEWEST_COMPUTES, compare
    from analysis.laws.metric import Metric

    for side in sides:
        computes = part.loc[part["side"] == side, "compute"].nunique()
        if computes < FEWEST_COMPUTES:
            more = f"finish its {todo[side]} open cells" if todo.get(side) else "add models or datasets to the grid"
            reason = f"{side} has runs at {computes} distinct computes, and {FEWEST_COMPUTES} would be: {more}"
            return Compared(name, metric, None, f"{sides[1]} against {sides[0]}: not enough to tell: {reason}")
    baseline, variant = (_variant(side, part[part["side"] == side]) for side in sides)
    try:
        found = compare(baseline, variant, Metric("loss" if metric.startswith(LOSS) else "share"))
    except ValueError as error:
        return Compared(name, metric, None, f"{sides[1]} against {sides[0]}: not enough to tell: {error}")
    return Compared(name, metric, found)


def _variant(name: str, rows: pd.DataFrame) -> Variant:
    from analysis.design.pairs import Variant

    cells = tuple(rows[["model", "dataset", *([END] if END in rows else [])]].itertuples(index=False, name=None))
    outcomes = rows["outcomes"].tolist()
    known = () if any(one is None for one in outcomes) else tuple(outcomes)
    return Variant(
        name, rows["compute"].to_numpy(float), rows["y"].to_numpy(float), cells, tuple(rows["seed"]), known
    )  # fmt: skip


def table(comparisons: Sequence[AxisComparisons]) -> pd.DataFrame:
    """Every multiplier as a row for a CSV file; without a compute it is that of the fit with a shared exponent."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for along in comparisons:
        for one in along.compared:
            same = {"axis": along.axis, "baseline": along.baseline, "variant": one.variant, "metric": one.metric}
            if one.comparison is None:
                rows.append(same | {"says": one.failed})
                continue
            counts = {"pairs": one.comparison.pairs, "runs": one.comparison.runs}
            said = counts | {"says": says(one), "warnings": "; ".join(one.comparison.warnings)}
            rows += [same | said | _numbers(found) for found in (one.comparison.shared, *one.comparison.separate)]
    columns = ["axis", "baseline", "variant", "metric", "multiplier", "low", "high", "compute", "extrapolated", "pairs",
               "runs", "says", "warnings"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _numbers(found: Multiplier) -> dict[str, Any]:
    """A multiplier's numbers; one that the runs do not identify has a range and no value."""
    value = found.value if found.identified else None
    return {"multiplier": value, "low": found.low, "high": found.high, "compute": found.compute,
            "extrapolated": found.extrapolated}  # fmt: skip


def figure(along: AxisComparisons) -> Figure | None:
    """The forest plot of an axis; None if nothing is compared."""
    from analysis.design.comparison_text import figure_table
    from analysis.figures.multiplier import multiplier_forest

    drawn = [one for one in along.compared if one.comparison is not None]
    if not drawn:
        return None
    numbers = figure_table([one.comparison for one in drawn if one.comparison], [one.label for one in drawn])
    return multiplier_forest(numbers, along.baseline)


def says(one: Compared) -> str:
    """What a comparison says, and what would tell more where it does not."""
    from analysis.design.comparison_text import sentence

    if one.comparison is None:
        return one.failed
    text = sentence(one.comparison)
    more = (
        ""
        if one.comparison.shared.identified
        else ": not enough to tell; more seeds or a wider range of compute would be"
    )
    return text + more
