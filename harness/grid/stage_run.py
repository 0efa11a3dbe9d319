"""One stage of one grid cell: the argument of training, embedding and joined profiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.grid.cell import Cell
from harness.recipe.schema import Recipe
from harness.storage.ledger import LedgerRow


@dataclass(frozen=True)
class StageRun:
    """A stage that is about to run.

    Attributes:
        folder: the cell's own folder, for its log, checkpoints, weights and embeddings.
        fingerprint: of the settings and data that determine the stage's result.
        start: the row of the training that a cell's own begins with.
        study: the recipe with all points of its axes, of which `recipe` is the cell's; None: the same.
    """

    recipe: Recipe
    cell: Cell
    folder: Path
    fingerprint: str
    start: LedgerRow | None = None
    study: Recipe | None = None
