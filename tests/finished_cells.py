"""Ledger rows, logs and crops of cells that are done, as the stages write them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.ledger import LedgerRow

SOURCES = ("CORUM", "StringDB")


def finished(
    recipe: Recipe, cell: Cell, recall: float, crops: int = 10_000_000, *, sources: tuple[str, ...] = SOURCES,
    **training: Any,
) -> None:  # fmt: skip
    """Write the rows of a cell; `training` is added to the values of its training."""
    if cell.training is not None:
        log = cell_folder(recipe, cell) / "train.jsonl"
        log.parent.mkdir(parents=True)
        entries = [
            {"kind": "validation", "step": seen // 4096, "crops": seen, "validation_loss": 1 - recall * seen / crops}
            for seen in (crops // 10, crops)
        ]
        log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        crop = np.random.default_rng(0).normal(size=(1, 6, 32, 32)).astype(np.float32)
        np.savez(log.parent / "reconstructions.npz", wells=np.array(["w"]), original=crop, reconstruction=crop / 2,
                 mask=np.ones((1, 1, 32, 32), dtype=bool), channels=np.array(list("abcdef")))  # fmt: skip
        values = {"crops": crops, "validation_loss": 1 - recall, "stage_seconds": 3600.0} | training
        ledger.record(recipe.output, LedgerRow(cell.id, "train", "x", values))
    found = {"recall": recall, "recall_low": recall - 0.02, "recall_high": recall + 0.02, "chance": 0.1, "pairs": 99}
    values = {"genes": 50, "recall": dict.fromkeys(sources, found), "stage_seconds": 36.0}
    ledger.record(recipe.output, LedgerRow(cell.id, "evaluate", "x", values))
