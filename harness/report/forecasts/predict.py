"""Predict cells that have not run, with the report's laws, conventions and exclusions, from the cells that are done.

Recall of each source, and its mean over sources, follow the report's law in compute at the cell's point of the axes.
Validation loss is compared within a patch size: by the joint law of cost per crop and crops where both vary enough,
else by the average of laws in compute. What no law can tell is written as such.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from analysis.arrays import Floats
from harness.grid.cell import Cell, axis_value, fingerprint
from harness.grid.cells import cells
from harness.plan.cost import CellPlan, plan_cells
from harness.recipe.axes import axis_names
from harness.recipe.schema import Recipe
from harness.report import points
from harness.report.forecasts.seal import CellForecast, Forecast, Predicted
from harness.report.frontier import FEWEST_RUNS, FEWEST_VALUES
from harness.report.next_runs import LAW
from harness.report.rows import evaluate_values, log_path, train_values
from harness.report.stamp import code, packages
from harness.storage import ledger
from harness.storage.train_log import last_row, last_step

if TYPE_CHECKING:
    import pandas as pd

    from analysis.fitting.fit_curve import Law
    from analysis.laws.metric import Metric

CONFIDENCE = 0.9
LOSS, MEAN = "validation loss", "recall, mean over sources"


@dataclass(frozen=True)
class Place:
    """Where a cell is among the inputs of laws: its planned compute, and the two factors of it."""

    compute: float
    cost: float
    crops: float


def is_done(recipe: Recipe, cell: Cell) -> bool:
    """Whether nothing of a cell is left to be measured."""
    evaluated = recipe.evaluate is not None and (cell.kind != "segment" or cell.is_snapshot)
    return (evaluate_values(recipe, cell) if evaluated else train_values(recipe, cell)) is not None


def refusals(recipe: Recipe, chosen: Iterable[Cell]) -> list[str]:
    """Why cells cannot be forecast, one line each."""
    lines = [f"{cell.id} is done: a forecast comes before the run" for cell in chosen if is_done(recipe, cell)]
    stopped = ((cell, train_values(recipe, cell)) for cell in chosen)
    return lines + [f"{cell.id} was stopped by launch.stop_when" for cell, row in stopped if row and row.stopped]


def open_cells(recipe: Recipe) -> list[Cell]:
    """The trained cells of a study that are not done, in the order of the grid."""
    trained = [cell for cell in cells(recipe) if cell.kind == "trained"]
    return [cell for cell in trained if not refusals(recipe, [cell])]


def forecast(recipe: Recipe, chosen: Sequence[Cell], number: int, previous: str | None) -> Forecast:
    """Predict cells; what is sealed is this.

    Args:
        recipe: the study.
        chosen: the cells, none of them done.
        number: of the forecast in the study, from 1.
        previous: the seal of the forecast before.
    """
    grid, convention = cells(recipe), recipe.fit.convention
    table = points.for_laws(points.points(recipe, grid, convention), recipe.fit)
    recalls = table[table["trained"].astype(bool)]
    losses = points.for_laws(points.trained_runs(recipe, grid, convention), recipe.fit)
    predicted = [_cell(recipe, cell, _at(recalls, recipe, cell), _at(losses, recipe, cell)) for cell in chosen]
    used = [cell for cell in grid if cell.id in {*recalls["cell"], *losses["cell"]}]
    rows = _digests(recipe, used)
    return Forecast(
        number=number, previous=previous, time=datetime.now(UTC).isoformat(timespec="seconds"), confidence=CONFIDENCE,
        convention=convention, recipe=recipe.model_dump(mode="json"), ledger=fingerprint(rows), rows=len(rows),
        code=code(), packages=packages(), cells=tuple(predicted),
    )  # fmt: skip


def _cell(recipe: Recipe, cell: Cell, recalls: pd.DataFrame, losses: pd.DataFrame) -> CellForecast:
    """The prediction of every metric that is not measured yet."""
    trained, log = train_values(recipe, cell), log_path(recipe, cell)
    seen, row = last_step(log), last_row(log, "train")
    place, lacking = _place(recipe, cell)
    kinds = sorted({*recalls["kind"], *losses["kind"]})
    if place is not None and kinds and cell.network_kind not in kinds:
        enough = f"3 finished cells of {cell.network_kind} at distinct computes would be"
        place, lacking = None, f"laws are of {', '.join(kinds)}; {enough}"
    predicted = _recalls(recipe, recalls, place, lacking) if recipe.evaluate else []
    if trained is None and not cell.is_classifier:
        own = losses[losses["patch"] == cell.architecture.model.patch_size] if cell.architecture else losses
        predicted = [_loss(own, place, lacking), *predicted]
    return CellForecast(
        cell=cell.id,
        compute=place.compute if place else None,
        crops=round(place.crops) if place else None,
        steps_seen=trained.steps or seen if trained else seen,
        steps=round(row["step"] / row["progress"]) if row and row.get("progress") else None,
        is_trained=trained is not None,
        predicted=tuple(predicted),
    )


def _place(recipe: Recipe, cell: Cell) -> tuple[Place | None, str]:
    """Where a cell will be, by the plan; or why that cannot be told."""
    if cell.kind != "trained":
        return None, f"a cell of kind {cell.kind} is not on a law of finished runs: only trained cells are"
    try:
        plan: CellPlan = plan_cells(recipe, [cell])[0]
    except (ValueError, OSError) as error:
        return None, f"its compute is not known: {error}"
    crops, compute = plan.crops + plan.crops_before, plan.flops[recipe.fit.convention]
    return (Place(compute, compute / crops, crops), "") if crops else (None, "its plan has no crops to train on")


def _recalls(recipe: Recipe, table: pd.DataFrame, place: Place | None, lacking: str) -> list[Predicted]:
    """The recall of each source of the recipe, and the mean over sources of each run."""
    assert recipe.evaluate is not None
    means = table.groupby("cell", as_index=False)[["compute", "recall"]].mean()
    tables = {str(source): table[table["source"] == source] for source in recipe.evaluate.relationships} | {MEAN: means}
    return [_recall(name, runs, place, lacking) for name, runs in tables.items()]


def _recall(metric: str, runs: pd.DataFrame, place: Place | None, lacking: str) -> Predicted:
    from analysis.laws.metric import Metric

    inputs, values = runs[["compute"]].to_numpy(float), runs["recall"].to_numpy(float)
    target = None if place is None else (place.compute,)
    return _predicted(metric, Metric("share"), LAW, inputs, values, target, lacking)


def _loss(runs: pd.DataFrame, place: Place | None, lacking: str) -> Predicted:
    from analysis.laws.metric import Metric

    costed = runs.assign(cost=runs["compute"] / runs["crops"])
    values = [costed[factor].round(6).nunique() for factor in ("cost", "crops")]
    pairs = len(costed[["cost", "crops"]].round(6).drop_duplicates())
    joint = min(values) >= FEWEST_VALUES and pairs >= FEWEST_RUNS
    inputs = ["cost", "crops"] if joint else ["compute"]
    target = None if place is None else tuple(getattr(place, name) for name in inputs)
    losses = costed["loss"].to_numpy(float)
    return _predicted(LOSS, Metric("loss"), "auto", costed[inputs].to_numpy(float), losses, target, lacking)


def _predicted(
    name: str, metric: Metric, law: str, inputs: Floats, values: Floats, target: tuple[float, ...] | None, lacking: str
) -> Predicted:
    """One metric at one place, by a law of runs with inputs (n, d) and values (n,)."""
    if target is None:
        return Predicted(metric=name, cannot_tell=f"not enough to tell: {lacking}")
    try:
        fitted = _fit(metric, law, inputs.shape, inputs.tobytes(), values.tobytes())
    except ValueError as error:
        text = str(error)
        told = text if "not enough to tell" in text else f"not enough to tell: {text}"
        return Predicted(metric=name, points=len(values), cannot_tell=told)
    at = fitted.predict(np.array([target]), CONFIDENCE)
    if at.cannot_tell:
        return Predicted(metric=name, points=len(values), cannot_tell=at.cannot_tell)
    factors = "cost per crop and crops" if inputs.shape[1] > 1 else "compute"
    used = f"{law} in {factors}"
    return Predicted(metric=name, value=at.y, low=at.low, high=at.high, law=used, points=len(values))


@cache
def _fit(metric: Metric, law: str, shape: tuple[int, ...], inputs: bytes, values: bytes) -> Law:
    """A law of runs, once for all cells that it predicts.

    Raises:
        ValueError: not enough to tell.
    """
    from analysis.fitting.estimate import Points
    from analysis.fitting.fit_curve import Law

    points = Points(np.frombuffer(inputs).reshape(shape), np.frombuffer(values))
    return Law.of(points, metric, law)


def _at(table: pd.DataFrame, recipe: Recipe, cell: Cell) -> pd.DataFrame:
    """The rows of cells at a cell's point of the axes."""
    place: Mapping[str, object] = cell.point.coordinates()
    kept = np.ones(len(table), dtype=bool)
    for axis in axis_names(recipe.grid):
        value = axis_value(place.get(axis))  # type: ignore[arg-type]  # any JSON value
        kept &= (table[axis].isna() if value is None else table[axis] == value).to_numpy(bool)
    return table[kept]


def _digests(recipe: Recipe, used: Sequence[Cell]) -> list[list[str]]:
    """The ledger rows behind the laws: cell, stage and SHA-256 of each."""
    found = []
    for cell in used:
        for stage in ledger.STAGES:
            path = ledger.row_path(recipe.output, cell.id, stage)
            if path.exists():
                found.append([cell.id, stage, hashlib.sha256(path.read_bytes()).hexdigest()])
    return found
