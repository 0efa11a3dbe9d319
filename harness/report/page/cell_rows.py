"""The rows of the page's table of cells, and what the hours of their training were spent on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.grid.cell import Cell
from harness.plan.cost import HOUR, CellPlan
from harness.plan.resources import stage_resources
from harness.recipe.schema import Recipe
from harness.report.page.curves import finite
from harness.report.rows import TrainValues, Values, annealed, is_open, log_path, stage_values, train_values
from harness.report.stopped import STOPPED
from harness.storage import ledger
from harness.storage.health.sessions import Spent

if TYPE_CHECKING:
    import pandas as pd

    from analysis.page.study import CellRow

ANNEALED = {True: "yes", False: "no", None: "unknown"}


def cell_rows(
    recipe: Recipe, grid: Sequence[Cell], table: pd.DataFrame, plans: Mapping[str, CellPlan]
) -> list[CellRow]:
    """A row of each cell.

    Args:
        recipe: the study.
        grid: its cells.
        table: of their points.
        plans: by cell, of those that have one.
    """
    recalls = _recalls(table)
    return [_row(recipe, cell, recalls.get(cell.id, {}), plans.get(cell.id)) for cell in grid]


def hours_spent(recipe: Recipe, grid: Sequence[Cell]) -> str:
    """What the hours of the study's finished trainings were spent on, in a sentence; empty if none is known."""
    trained = (train_values(recipe, cell) for cell in grid)
    total = sum((Spent(**train.spent.model_dump()) for train in trained if train and train.spent), Spent())
    words = total.in_words
    return f"{words[0].upper()}{words[1:]}." if words else ""


def _recalls(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """The recall of each cell by source."""
    recalls: dict[str, dict[str, float | None]] = {}
    for cell, source, recall in zip(table["cell"], table["source"], table["recall"], strict=True):
        recalls.setdefault(str(cell), {})[str(source)] = float(recall)
    return recalls


def _row(recipe: Recipe, cell: Cell, recalls: Mapping[str, float | None], plan: CellPlan | None) -> CellRow:
    from analysis.page.study import CellRow

    rows = {stage: stage_values(recipe, cell, stage) for stage in ledger.STAGES}
    finished = [(stage, values) for stage, values in rows.items() if values is not None]
    train, log = train_values(recipe, cell), log_path(recipe, cell)
    return CellRow(
        cell=cell.id,
        model=cell.model,
        dataset=cell.dataset or "",
        seed=cell.seed,
        state=STOPPED
        if train and train.stopped
        else _state(recipe, cell, finished=bool(finished), evaluated=rows["evaluate"] is not None),
        loss=train.validation_loss if train else None,
        recalls=recalls,
        planned_hours=finite(plan.all_hours) if plan and recipe.launch.gpus_per_node else None,
        spent_hours=sum(_spent(recipe, cell, stage, values) for stage, values in finished) if finished else None,
        goodput=_goodput(train),
        annealed=ANNEALED[annealed(cell, train)] if train and cell.is_point else "",
        log=str(Path("..") / log.relative_to(recipe.output)) if log.exists() else None,
    )


def _state(recipe: Recipe, cell: Cell, *, finished: bool, evaluated: bool) -> str:
    """How far a cell is; `finished`: any stage. A segment that is not evaluated is done once it need not be trained."""
    if evaluated or (cell.kind == "segment" and not cell.is_snapshot and not is_open(recipe, cell)):
        return "done"
    return "part" if finished else "missing"


def _spent(recipe: Recipe, cell: Cell, stage: ledger.Stage, values: Values) -> float:
    """GPU hours of a stage, or hours of its processes on a machine without GPUs; evaluation takes no GPU.

    Of a training all of its starts count; where its row is of an early version, the start-up of the last one only.
    """
    if isinstance(values, TrainValues) and values.spent is not None and recipe.launch.gpus_per_node:
        return values.spent.hours
    trained = values.train_seconds if isinstance(values, TrainValues) else 0.0
    hours = max(values.stage_seconds, trained) / HOUR
    resources = stage_resources(recipe.launch, cell, stage)
    return hours * resources.nodes * resources.gpus_per_node if recipe.launch.gpus_per_node else hours


def _goodput(train: TrainValues | None) -> float | None:
    spent = train.spent if train is not None else None
    return spent.useful / spent.hours if spent is not None and spent.hours else None
