"""How a study's own runs would split compute between a dearer model and more crops: the joint law's frontier.

The two factors are a crop's cost under a convention and the crops seen, whose product is the compute of that
convention; so each convention has its frontier. Only where a run ended counts: a loss on the way, under a schedule that
is made for the end, is no loss of a shorter run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.grid.cells import Cell
from harness.recipe.schema import Recipe
from harness.report.points import one_family
from harness.storage import ledger

if TYPE_CHECKING:
    import pandas as pd

    from analysis.design.frontier import Exponent, Frontier
    from analysis.laws.metric import Metric
    from analysis.page.study import Allocation

FEWEST_VALUES = 3  # of each factor, for a curve in it
FEWEST_RUNS = 7  # distinct places: two more than the joint law has parameters
BEYOND = 10.0  # times the largest compute that frontiers are drawn to
LINE_POINTS = 40
RECALL = "recall, mean over sources"


def allocations(
    recipe: Recipe, grid: Sequence[Cell], tables: Mapping[str, pd.DataFrame]
) -> dict[str, list[Allocation]]:
    """The frontiers of mean recall and of each patch size's loss, by convention; none where a factor stands still.

    Args:
        recipe: the study.
        grid: its cells.
        tables: `points.points` under each convention.
    """
    losses = {cell.id: loss for cell in grid if (loss := _loss(recipe, cell)) is not None}
    found = {
        name: [_allocation(metric, kind, runs) for metric, kind, runs in _metrics(_runs(table, losses))]
        for name, table in tables.items()
    }
    return {name: of for name, of in found.items() if of}


def _loss(recipe: Recipe, cell: Cell) -> float | None:
    row = ledger.read(recipe.output, cell.id, "train")
    return None if row is None else row.values.get("validation_loss")


def _runs(table: pd.DataFrame, losses: Mapping[str, float]) -> pd.DataFrame:
    """A row per trained cell of the commonest kind: cost per crop, crops, patch, mean recall, loss."""
    family = one_family(table)
    trained = family[family["trained"].astype(bool)]
    runs = trained.groupby("cell", sort=False).agg(
        {"compute": "first", "crops": "first", "patch": "first", "recall": "mean"}
    )
    found = [losses.get(str(cell), float("nan")) for cell in runs.index]
    return runs.assign(cost=runs["compute"] / runs["crops"], loss=found)


def _metrics(runs: pd.DataFrame) -> Iterator[tuple[str, Metric, pd.DataFrame]]:
    """What is to be allocated for: its name, its kind, and the runs with y, where both factors vary enough."""
    from analysis.laws.metric import Metric

    wanted = [(RECALL, Metric("share"), runs.assign(y=runs["recall"]))]
    for patch, rows in runs.dropna(subset=["loss"]).groupby("patch"):
        # pixels of a larger patch are harder to fill in: losses of two patch sizes are of two tasks
        wanted.append((f"validation loss, patch {patch}", Metric("loss"), rows.assign(y=rows["loss"])))
    for name, metric, rows in wanted:
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
    most = float(runs["compute"].max())
    budgets = [*np.geomspace(float(runs["compute"].min()), most * BEYOND, LINE_POINTS), most, most * BEYOND]
    cells = [str(cell) for cell in runs.index]
    try:
        found = split(averages.fit(points, metric, "joint").members[0], points, budgets, per_unit=1.0)
    except ValueError as error:
        return Allocation(name, f"no joint law: {error}.", {}, (), cells)
    if found.unidentified:
        loose = " and ".join(found.unidentified)
        return Allocation(
            name, f"{len(runs)} runs do not tell: {loose} of the joint law is not identified by them.", {}, (), cells
        )
    best = found.frontier
    answer = (
        f"best cost per crop grows as compute to the {_power(best.size_exponent)}, crops as compute to the "
        f"{_power(best.data_exponent)} ({len(runs)} runs)."
    )
    reached = float(best.size[-2])
    if not runs["cost"].min() <= reached <= runs["cost"].max():
        side = "below" if reached < runs["cost"].min() else "above"
        answer += f" At the largest compute the best cost lies {side} that of every run: this is extrapolated."
    return Allocation(name, answer, _line(best), [_place(best, index) for index in (-2, -1)], cells)


def _power(one: Exponent) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _line(best: Frontier) -> dict[str, list[float]]:
    of: dict[str, Any] = {"x": best.compute, "y": best.size, "low": best.size_low, "high": best.size_high}
    return {key: values[:LINE_POINTS].tolist() for key, values in of.items()}


def _place(best: Frontier, index: int) -> dict[str, float]:
    of = {"compute": best.compute, "cost": best.size, "cost_low": best.size_low, "cost_high": best.size_high,
          "crops": best.data, "predicted": best.loss}  # fmt: skip
    return {key: float(values[index]) for key, values in of.items()}
