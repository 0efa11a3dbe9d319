"""The outlook of every cell that has begun to train and is not done, for `status` and the page."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import exists

from analysis.forecast.outlook import Outlook
from harness.grid.cell import Cell
from harness.grid.cell_folder import CELLS, TRAIN_LOG
from harness.recipe.schema import Recipe


def begun(recipe: Recipe, grid: Sequence[Cell]) -> list[Cell]:
    """The trained cells without a row that have a log. Paths are text here: objects of thousands take long."""
    trained = [cell for cell in grid if cell.kind == "trained"]
    rowless = [cell for cell in trained if not exists(f"{recipe.output}/ledger/{cell.id}/train.json")]  # noqa: PTH110
    return [cell for cell in rowless if exists(f"{recipe.output}/{CELLS}/{cell.id}/{TRAIN_LOG}")]  # noqa: PTH110


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
