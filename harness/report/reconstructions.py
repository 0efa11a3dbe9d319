"""Reconstructions of masked crops by trained cells, which their embedding stage saved, for the report to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.grid.cell_folder import RECONSTRUCTIONS, cell_folder
from harness.grid.cells import Cell
from harness.recipe.schema import Recipe
from harness.storage import ledger

if TYPE_CHECKING:
    from analysis.figures.reconstructions import ReconstructionRow
    from analysis.page.study import Sample

MAX_SAMPLES = 60  # of about 80 kB each in the page


def reconstructing(recipe: Recipe, grid: Sequence[Cell]) -> list[tuple[float, Cell, Path]]:
    """Validation loss, cell and file of every trained cell that reconstructs, lowest loss first."""
    rows = [
        (float(row.values["validation_loss"]), cell, path)
        for cell in grid
        if cell.kind == "trained"
        and (row := ledger.read(recipe.output, cell.id, "train")) is not None
        and (path := cell_folder(recipe, cell) / RECONSTRUCTIONS).exists()  # a classifier reconstructs nothing
    ]
    return sorted(rows, key=lambda one: (one[0], one[1].id))


def read(path: Path) -> tuple[list[ReconstructionRow], list[str]]:
    """The crops of one cell, and the names of their channels."""
    import numpy as np

    from analysis.figures.reconstructions import ReconstructionRow

    with np.load(path, allow_pickle=False) as arrays:
        rows = [
            ReconstructionRow(str(label), original, mask[0] if len(mask) == 1 else mask, filled)
            for label, original, mask, filled in zip(
                *(arrays[name] for name in ("wells", "original", "mask", "reconstruction")), strict=True
            )
        ]
        return rows, arrays["channels"].tolist()


def samples(recipe: Recipe, grid: Sequence[Cell]) -> list[Sample]:
    """The first crop of every cell that reconstructs, lowest loss first."""
    from analysis.figures.reconstructions import strip
    from analysis.page.study import Sample

    first_crops = []
    for loss, cell, path in reconstructing(recipe, grid)[:MAX_SAMPLES]:
        crops, channels = read(path)
        first_crops.append(Sample(cell.id, loss, strip(crops[0], channels)))
    return first_crops
