"""Placebos of a study stand beside its best model, and those that reach half of its recall are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finished_cells import finished

from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.gains.placebos import placebos, warnings
from harness.report.points import points
from harness.storage import ledger
from harness.storage.ledger import LedgerRow

RECIPE = Path(__file__).parents[4] / "recipes" / "scaling.yaml"


def share(recall: float) -> dict[str, Any]:
    return {"recall": recall, "recall_low": recall - 0.04, "recall_high": recall + 0.04, "chance": 0.1}


def finish(recipe: Recipe, cell: Cell, recall: float, found: dict[str, float]) -> None:
    finished(recipe, cell, recall, sources=("CORUM",))
    row = ledger.read(recipe.output, cell.id, "evaluate")
    assert row is not None
    panel = {name: {"CORUM": share(value)} for name, value in found.items()}
    ledger.record(recipe.output, LedgerRow(cell.id, "evaluate", "x", row.values | {"placebos": panel}))


@pytest.mark.parametrize(("position", "flagged"), [(0.25, True), (0.19, False)], ids=["planted", "clean"])
def test_a_placebo_that_reaches_half_of_the_best_model_is_named(position: float, flagged: bool, tmp_path: Path) -> None:
    recipe = load(RECIPE, "slurm", [f"output={tmp_path}", "grid.models=[vit_s16, vit_b16]", "grid.datasets=[rxrx3]"])
    for cell in cells(recipe):
        if cell.kind == "trained":
            best = cell.model == "vit_b16"
            finish(recipe, cell, 0.3 if best else 0.2, {"well_position": position if best else 0.9})
        elif cell.kind == "pixel_statistics":
            finish(recipe, cell, 0.12, {"intensity": 0.11, "well_position": 0.8})
    grid = cells(recipe)
    table = placebos(recipe, grid, points(recipe, grid, recipe.fit.convention)).set_index("placebo")
    assert {*table.index} == {"well_position", "intensity", "pixel_statistics"}
    assert {*table["model"]} == {"vit_b16"}
    assert table.loc["well_position", "share"] == pytest.approx((position - 0.1) / 0.2)
    assert table.loc["pixel_statistics", "recall"] == pytest.approx(0.12)
    said = warnings(table.reset_index())
    text = "CORUM: well_position (row and column of the well alone) recalls 0.250, which is 75% of what vit_b16 recalls"
    assert said == ([f"{text} over chance"] if flagged else [])
