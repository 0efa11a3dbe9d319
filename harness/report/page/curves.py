"""The points and curves of the page's figures, under every compute convention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.compute.flops import CONVENTIONS
from analysis.fitting.annealing import unannealed
from harness.grid.cell import Cell
from harness.recipe.schema import Recipe
from harness.report import points

if TYPE_CHECKING:
    import pandas as pd


def drawn_points(tables: Mapping[str, pd.DataFrame], convention: str) -> list[dict[str, Any]]:
    """The rows of a table of points, each with its compute under every convention."""
    rows = [_plain(row) for row in tables[convention].to_dict("records")]
    for name, table in tables.items():
        for row, value in zip(rows, table["compute"], strict=True):
            if not isinstance(row["compute"], dict):
                row["compute"] = {}
            row["compute"][name] = finite(float(value))
    return rows


def is_thinned(curves: pd.DataFrame) -> bool:
    """Whether there are so many cells that only some readings of each are drawn."""
    from analysis.figures.style import MANY

    return bool(curves.loc[curves["crops"] > 0, "cell"].nunique() > MANY)


def drawn_curves(curves: pd.DataFrame, grid: Sequence[Cell], recipe: Recipe) -> list[dict[str, Any]]:
    """The validations of each trained cell; of many cells, some of each, which the page's figure needs no more of."""
    from analysis.figures.loss import spread

    ends = points.finals(recipe, grid)
    stopped = set(ends.loc[unannealed(ends), "cell"])
    by_name = {name: points.curves(recipe, grid, name) for name in CONVENTIONS}
    drawn, many = [], is_thinned(curves)
    for cell, every in curves[curves["crops"] > 0].groupby("cell", sort=False):
        rows = every.iloc[spread(len(every))] if many else every
        first = _plain(rows.iloc[0].to_dict())
        compute = {name: table.loc[rows.index, "compute"].tolist() for name, table in by_name.items()}
        losses = rows["loss"].tolist()
        if many:
            compute, losses = {name: _short(values) for name, values in compute.items()}, _short(losses)
        same = {"cell": cell, "size": first["size"], "patch": first["patch"], "annealed": cell not in stopped}
        drawn.append(same | {"loss": losses, "compute": compute})
    return drawn


def _short(values: Sequence[float]) -> list[float]:
    """The numbers to as many digits as a figure can show."""
    return [float(f"{value:.5g}") for value in values]


def frontier(curves: pd.DataFrame) -> dict[str, list[float]]:
    """The lowest loss at each compute."""
    from analysis.figures.loss import lower_frontier

    lowest = lower_frontier(curves[curves["compute"] > 0])
    return {"x": lowest["compute"].tolist(), "y": lowest["loss"].tolist()}


def finite(value: object) -> float | None:
    """A finite number, or None."""
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else None


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A table's row as JSON has it: missing values as None."""
    import pandas as pd

    return {
        str(key): None if pd.isna(value) else getattr(value, "item", lambda v=value: v)() for key, value in row.items()
    }
