"""The outlook of every cell that has begun to train and is not done, for `status` and the page."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.forecast.outlook import Outlook
from harness.grid.cell import Cell
from harness.grid.cell_folder import TRAIN_LOG, cell_folder
from harness.recipe.schema import Recipe
from harness.storage import ledger


def begun(recipe: Recipe, grid: Sequence[Cell]) -> list[Cell]:
    """The trained cells without a row that have a log."""
    trained = [cell for cell in grid if cell.kind == "trained"]
    rowless = [cell for cell in trained if not ledger.row_path(recipe.output, cell.id, "train").exists()]
    return [cell for cell in rowless if (cell_folder(recipe, cell) / TRAIN_LOG).exists()]


def outlooks(recipe: Recipe, grid: Sequence[Cell]) -> dict[str, Outlook]:
    """The outlook of the cells of a study that are in training and were validated, by id.

    Finished runs are read once for all of them, and not at all where no cell has begun.
    """
    from harness.train.outlook import study_runs

    asked = begun(recipe, grid)
    if not asked:
        return {}
    runs = study_runs(recipe, grid)
    found = ((cell.id, runs.outlook(cell)) for cell in asked)
    return {name: seen for name, seen in found if seen is not None}
