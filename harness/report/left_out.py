"""What a report leaves out, with reasons: rows, logs and crops that cannot be used, and rows of other studies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.grid.cell import Cell
from harness.recipe.schema import Recipe
from harness.report.forecasts.score import verified
from harness.report.reconstructions import damaged
from harness.report.rows import checked_values, log_path, train_values, validations
from harness.storage import ledger
from harness.storage.ledger import LedgerError


@dataclass(frozen=True)
class LeftOut:
    """A file that the report leaves out.

    Attributes:
        path: relative to the study's output.
        is_fault: whether something is wrong; rows of cells outside the grid may belong to another recipe.
    """

    path: Path
    reason: str
    is_fault: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def left_out(recipe: Recipe, grid: Sequence[Cell]) -> list[LeftOut]:
    """Everything that the report of a study leaves out, in the order of the grid, then what is not in the grid."""
    faults = [LeftOut(path.relative_to(recipe.output), reason) for path, reason in _faults(recipe, grid)]
    return faults + _outside(recipe, grid)


def _faults(recipe: Recipe, grid: Sequence[Cell]) -> Iterator[tuple[Path, str]]:
    for cell in grid:
        for stage in ledger.STAGES:
            try:
                checked_values(recipe, cell, stage)
            except LedgerError as error:
                yield error.path, error.reason
        damage = validations(recipe, cell)[1] if train_values(recipe, cell) else ""
        if damage:
            yield log_path(recipe, cell), damage
    yield from damaged(recipe, grid)
    broken = verified(recipe)[1]
    if broken is not None:
        yield broken.path, f"{broken.place}: {broken.reason}; no forecast is scored"


def _outside(recipe: Recipe, grid: Sequence[Cell]) -> list[LeftOut]:
    ids = {cell.id for cell in grid}
    reason = "no cell of this recipe's grid has this id"
    outside = ledger.cells_outside(recipe.output, ids)
    return [LeftOut(Path("ledger") / name, reason, is_fault=False) for name in outside]
