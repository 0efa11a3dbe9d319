"""How a study's own runs would split compute between a more expensive model and more crops: the joint law's frontier.

The two factors are the cost of a crop under a convention and the crops seen. Their product is the compute under that
convention, so each convention has its own frontier. Only the end of an annealed run counts: under a schedule that is
planned for the end, an intermediate loss is not the loss of a shorter run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.grid.cell import Cell
from harness.recipe.schema import Recipe
from harness.report.points import for_laws
from harness.report.rows import train_values

if TYPE_CHECKING:
    import pandas as pd

    from analysis.design.frontier import Exponent, Frontier
    from analysis.laws.metric import Metric
    from analysis.page.study import Allocation

FEWEST_VALUES = 3  # of each factor, for a curve in it
FEWEST_RUNS = 7  # distinct pairs of cost and crops: two more than the joint law has parameters
BEYOND = 10.0  # times the largest compute that frontiers are drawn to
LINE_POINTS = 40
RECALL = "recall, mean over sources"


def allocations(
    recipe: Recipe, grid: Sequence[Cell], tables: Mapping[str, pd.DataFrame]
) -> dict[str, list[Allocation]]:
    """The frontiers of mean recall and of each patch size's loss, by convention; none where a factor does not vary.

    Args:
        recipe: the study.
        grid: its cells.
        tables: `points.points` under each convention, with a column facet where the grid has axes.
    """
    ends = run_ends(recipe, grid)
    by_convention = {
        name: [
            _allocation(f"{metric}, {facet}" if facet else metric, kind, runs)
            for facet, part in facets(for_laws(table, recipe.fit))
            for metric, kind, runs in metrics(runs_of(part, ends))
        ]
        for name, table in tables.items()
    }
    return {name: frontiers for name, frontiers in by_convention.items() if frontiers}


def facets(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The points of each facet; all of them, without a name, in a table without facets."""
    if "facet" not in table:
        yield "", table
    else:
        yield from ((str(name), part) for name, part in table.groupby("facet", sort=False))


@dataclass(frozen=True)
class RunEnd:
    """What a trained cell's ledger row adds to its points; NaN where the row lacks it."""

    loss: float = math.nan  # validation loss at its end
    images: float = math.nan  # to train on


def run_ends(recipe: Recipe, grid: Sequence[Cell]) -> dict[str, RunEnd]:
    """The end of each trained cell."""
    trained = ((cell.id, train_values(recipe, cell)) for cell in grid)
    return {
        cell: RunEnd(*(math.nan if value is None else value for value in (values.validation_loss, values.wells)))
        for cell, values in trained
        if values
    }


def runs_of(table: pd.DataFrame, ends: Mapping[str, RunEnd]) -> pd.DataFrame:
    """One row per trained cell of the points for laws: cost per crop, crops, images, patch, mean recall, loss."""
    trained = table[table["trained"].astype(bool)]
    runs = trained.groupby("cell", sort=False).agg(
        {"compute": "first", "crops": "first", "patch": "first", "recall": "mean"}
    )
    found = [ends.get(str(cell), RunEnd()) for cell in runs.index]
    return runs.assign(
        cost=runs["compute"] / runs["crops"], loss=[end.loss for end in found], images=[end.images for end in found]
    )


def metrics(runs: pd.DataFrame) -> Iterator[tuple[str, Metric, pd.DataFrame]]:
    """The metrics to optimise: name, kind, and the runs with y, where both factors vary enough."""
    from analysis.laws.metric import Metric

    metrics = [(RECALL, Metric("share"), runs.assign(y=runs["recall"]))]
    for patch, rows in runs.dropna(subset=["loss"]).groupby("patch"):
        # a larger patch is harder to reconstruct, so losses of two patch sizes belong to two tasks
        metrics.append((f"validation loss, patch {patch}", Metric("loss"), rows.assign(y=rows["loss"])))
    for name, metric, rows in metrics:
        values = [rows[factor].round(6).nunique() for factor in ("cost", "crops")]
        if min(values) >= FEWEST_VALUES and len(rows[["cost", "crops"]].drop_duplicates()) >= FEWEST_RUNS:
            yield name, metric, rows


def _allocation(name: str, metric: Metric, runs: pd.DataFrame) -> Allocation:
    import numpy as np

    from analysis.design.frontier import split
    from analysis.fitting import averages
    from analysis.fitting.estimate import Points
    from analysis.page.study import Allocation

    points = Points(runs[["cost", "crops"]].to_numpy(float), runs["y"].to_numpy(float))
    largest = float(runs["compute"].max())
    budgets = [*np.geomspace(float(runs["compute"].min()), largest * BEYOND, LINE_POINTS), largest, largest * BEYOND]
    cells = [str(cell) for cell in runs.index]
    try:
        allocation = split(averages.fit(points, metric, "joint").members[0], points, budgets, per_unit=1.0)
    except ValueError as error:
        return Allocation(name, f"no joint law: {error}.", {}, (), cells)
    if allocation.unidentified:
        loose = " and ".join(allocation.unidentified)
        lacking = f"{len(runs)} runs are not enough: they do not identify {loose} of the joint law."
        return Allocation(name, lacking + _repeats(runs, metric), {}, (), cells)
    best = allocation.frontier
    answer = (
        f"best cost per crop grows as compute to the {_power(best.size_exponent)}, crops as compute to the "
        f"{_power(best.data_exponent)} ({len(runs)} runs)."
    )
    reached = float(best.size[-2])
    if not runs["cost"].min() <= reached <= runs["cost"].max():
        side = "below" if reached < runs["cost"].min() else "above"
        answer += f" At the largest compute the best cost is {side} that of every run: this is extrapolated."
    answer += _repeats(runs, metric)
    return Allocation(name, answer, _line(best), [_place(best, index) for index in (-2, -1)], cells)


def _repeats(runs: pd.DataFrame, metric: Metric) -> str:
    """What more epochs do at the largest cost on the fewest and the most images; nothing if the runs do not tell."""
    from analysis.design.repeats import best_epochs, in_words
    from analysis.fitting import averages
    from analysis.fitting.estimate import Points

    known = runs.dropna(subset=["images"])
    epochs = known["crops"] / known["images"]
    if epochs.round(3).nunique() < FEWEST_VALUES or known["images"].nunique() < FEWEST_VALUES:
        return ""
    points = Points(known[["cost", "images", "crops"]].to_numpy(float), known["y"].to_numpy(float))
    try:
        law = averages.fit(points, metric)
    except ValueError:
        return ""
    most, images = float(known["cost"].max()), known["images"]
    told = [
        f"on {found.unique:,.0f} images, {in_words(found)}"
        for found in best_epochs(law, points, [(most, float(images.min())), (most, float(images.max()))])
    ]
    return (
        f" The runs saw their images {epochs.min():.3g} to {epochs.max():.3g} times. At the largest cost: "
        f"{'; '.join(told)}."
    )


def _power(exponent: Exponent) -> str:
    return f"{exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}]"


def _line(best: Frontier) -> dict[str, list[float]]:
    columns: dict[str, Any] = {"x": best.compute, "y": best.size, "low": best.size_low, "high": best.size_high}
    return {key: values[:LINE_POINTS].tolist() for key, values in columns.items()}


def _place(best: Frontier, index: int) -> dict[str, float]:
    columns = {"compute": best.compute, "cost": best.size, "cost_low": best.size_low, "cost_high": best.size_high,
          "crops": best.data, "predicted": best.loss}  # fmt: skip
    return {key: float(values[index]) for key, values in columns.items()}
