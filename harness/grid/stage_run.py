"""A stage of a grid cell that is about to run: what training, embedding and evaluation are handed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.grid.cells import Cell
from harness.recipe.schema import Recipe


@dataclass(frozen=True)
class StageRun:
    """One stage of one cell.

    Attributes:
        folder: the cell's own folder, for its log, checkpoints, weights and embeddings.
        fingerprint: of the settings and data that decide the stage's result.
    """

    recipe: Recipe
    cell: Cell
    folder: Path
    fingerprint: str
