"""Covers `cell_rows`: hours of all starts of a training, what they were spent on, and a damaged row."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from finished_cells import finished

from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.page.cell_rows import cell_rows, hours_spent
from harness.storage.ledger import row_path

RECIPE = Path(__file__).parents[4] / "recipes" / "scaling.yaml"
NO_POINTS = pd.DataFrame({"cell": [], "source": [], "recall": []})
SPENT = {"hours": 8.0, "useful": 6.0, "starting": 0.5, "saving": 0.5, "lost": 1.0, "failures": 2}


@pytest.fixture
def study(tmp_path: Path) -> tuple[Recipe, list[Cell]]:
    """Two trained cells, the first with the hours of three starts."""
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}"])
    grid = [cell for cell in cells(recipe) if (cell.kind, cell.model) == ("trained", "vit_s16")][:2]
    finished(recipe, grid[0], 0.2, spent=SPENT, train_seconds=3600.0)
    finished(recipe, grid[1], 0.3)
    return recipe, grid


def test_all_starts_of_a_training_count_among_its_gpu_hours(study: tuple[Recipe, list[Cell]]) -> None:
    first, second = cell_rows(*study, NO_POINTS, {})
    assert first.goodput == 0.75
    assert second.goodput is None
    assert first.spent_hours is not None
    assert second.spent_hours is not None
    on_a_node_of_eight_gpus = 8.0  # an hour, as the second row has it without its starts
    assert first.spent_hours - SPENT["hours"] == pytest.approx(second.spent_hours - on_a_node_of_eight_gpus)


def test_the_sentence_sums_the_cells_that_tell(study: tuple[Recipe, list[Cell]]) -> None:
    assert hours_spent(*study) == (
        "Training took 8.00 GPU or process hours: 75.0% useful, start-up 6.2%, saves 6.2%, lost 12.5%; 2 starts failed."
    )
    recipe, grid = study
    assert hours_spent(recipe, grid[1:]) == ""


def test_a_damaged_row_is_left_out_of_the_sentence(study: tuple[Recipe, list[Cell]]) -> None:
    recipe, grid = study
    row_path(recipe.output, grid[1].id, "train").write_text("{")
    assert hours_spent(recipe, grid).startswith("Training took 8.00 ")
