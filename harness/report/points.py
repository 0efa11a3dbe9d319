"""The ledger as the two tables that `analysis` draws and fits: finished points, and the loss curve of each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.compute.flops import compute
from harness.grid.cell_folder import TRAIN_LOG, cell_folder
from harness.grid.cells import Cell
from harness.models.architecture import cost_of
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.train_log import read_log

if TYPE_CHECKING:
    import pandas as pd

POINT_COLUMNS = (
    "cell", "model", "size", "patch", "dataset", "dataset_rank", "seed", "trained", "source",
    "recall", "recall_low", "recall_high", "chance", "pairs", "genes", "crops", "compute", "kind",
)  # fmt: skip
CURVE_COLUMNS = ("cell", "model", "size", "patch", "dataset", "crops", "seed", "compute", "loss")


def points(recipe: Recipe, cells: Sequence[Cell], convention: str) -> pd.DataFrame:
    """One row per evaluated cell and relationship source."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in cells:
        done = ledger.read(recipe.output, cell.id, "evaluate")
        if done is None:
            continue
        crops = _crops(recipe, cell)
        same = _labels(recipe, cell) | {"crops": crops, "compute": _compute(cell, crops, convention)}
        for source in _sources(recipe, done.values["recall"]):
            row = done.values["recall"][source]
            recall = {name: row[name] for name in ("recall", "recall_low", "recall_high")}
            counts = {"chance": row["chance"], "pairs": row["pairs"], "genes": done.values["genes"]}
            rows.append(same | {"source": source} | recall | counts)
    table = pd.DataFrame(rows, columns=list(POINT_COLUMNS))
    return table.astype({"patch": "Int64", "dataset_rank": "Int64"})  # pixel statistics have neither


def one_family(table: pd.DataFrame) -> pd.DataFrame:
    """The points that one law can describe: the baselines, and the trained cells of the kind that has most of them.

    A classifier and a masked autoencoder of the same compute are points of two laws.
    """
    trained = table["trained"].astype(bool)
    kinds = table.loc[trained, "kind"].value_counts()
    return table if kinds.empty else table[~trained | (table["kind"] == kinds.index[0])]


def _sources(recipe: Recipe, recalls: dict[str, Any]) -> list[str]:
    """The sources of a row, in the recipe's order."""
    order = list(recipe.evaluate.relationships) if recipe.evaluate else []
    return sorted(recalls, key=lambda name: order.index(name) if name in order else len(order))


def curves(recipe: Recipe, cells: Sequence[Cell], convention: str) -> pd.DataFrame:
    """Every validation of every trained cell that is finished."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in cells:
        if cell.is_classifier:
            continue  # its loss is a cross-entropy, not comparable with a masked loss
        if cell.kind != "trained" or ledger.read(recipe.output, cell.id, "train") is None:
            continue
        for entry in read_log(cell_folder(recipe, cell) / TRAIN_LOG):
            if entry["kind"] == "validation":
                at = {"crops": entry["crops"], "compute": _compute(cell, entry["crops"], convention)}
                rows.append(_labels(recipe, cell) | at | {"loss": entry["validation_loss"]})
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def dataset_ranks(recipe: Recipe, cells: Sequence[Cell]) -> pd.DataFrame:
    """The rank of each trained cell's dataset in the nested order: columns cell and dataset_rank."""
    import pandas as pd

    ranks = recipe.grid.datasets.index
    return pd.DataFrame([{"cell": c.id, "dataset_rank": ranks(c.dataset)} for c in cells if c.dataset is not None])


def _labels(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    return {
        "cell": cell.id,
        **cell.labels(),
        "dataset_rank": recipe.grid.datasets.index(cell.dataset) if cell.dataset else None,
        "trained": cell.kind == "trained",
        "kind": cell.network_kind or cell.kind,
    }


def _crops(recipe: Recipe, cell: Cell) -> int:
    row = ledger.read(recipe.output, cell.id, "train")
    return int(row.values["crops"]) if row else 0


def _compute(cell: Cell, crops: int, convention: str) -> float:
    """NaN for a baseline: it was not trained, so it has no compute."""
    if cell.kind != "trained" or cell.architecture is None:
        return float("nan")
    return compute(convention, cost_of(cell.architecture), crops)
