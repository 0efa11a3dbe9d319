"""The ledger as the two tables that `analysis` draws and fits: finished points, and the loss curve of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.compute.flops import compute
from analysis.fitting.annealing import TRUNK, unannealed
from harness.grid.cell import Cell
from harness.models.architecture import cost_of
from harness.recipe.axes import END, axis_names
from harness.recipe.schema import Fit, Recipe
from harness.report.rows import Recall, annealed, evaluate_values, train_values, validations

if TYPE_CHECKING:
    import pandas as pd

    from analysis.fitting.trend import LogLinearFit

POINT_COLUMNS = (
    "cell", "model", "size", "patch", "dataset", "dataset_rank", "seed", "trained", "source",
    "recall", "recall_low", "recall_high", "chance", "pairs", "genes", "crops", "compute", "kind", "annealed",
)  # fmt: skip
CURVE_COLUMNS = ("cell", "model", "size", "patch", "dataset", "crops", "seed", "compute", "loss")


def points(recipe: Recipe, cells: Sequence[Cell], convention: str) -> pd.DataFrame:
    """One row per evaluated cell and relationship source."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in cells:
        done = evaluate_values(recipe, cell)
        if done is None:
            continue
        trained = train_values(recipe, cell)
        if cell.is_snapshot and trained is not None and trained.steps != trained.planned_steps:
            continue  # its run stopped before, so that this is the run's own end once more
        crops = trained.crops if trained else 0
        same = _labels(recipe, cell) | {
            "crops": crops,
            "compute": _compute(cell, crops, convention),
            "annealed": annealed(cell, trained) if trained else None,
        }
        for source in _sources(recipe, done.recall):
            row = done.recall[source]
            recall = {"recall": row.recall, "recall_low": row.recall_low, "recall_high": row.recall_high}
            counts = {"chance": row.chance, "pairs": row.pairs, "genes": done.genes}
            rows.append(same | {"source": source} | recall | counts)
    table = pd.DataFrame(rows, columns=[*POINT_COLUMNS, *_places(recipe, cells)])
    numbers = dict.fromkeys(("recall_low", "recall_high", "compute"), "float64")
    return table.astype({"patch": "Int64", "dataset_rank": "Int64", "annealed": "boolean", **numbers})


def one_family(table: pd.DataFrame) -> pd.DataFrame:
    """The points that one law can describe: the baselines, and the trained cells of the kind that has most of them.

    A classifier and a masked autoencoder of the same compute are points of two laws.
    """
    trained = table["trained"].astype(bool)
    kinds = table.loc[trained, "kind"].value_counts()
    return table if kinds.empty else table[~trained | (table["kind"] == kinds.index[0])]


def annealed_only(table: pd.DataFrame, fit: Fit) -> pd.DataFrame:
    """The points without those of runs that stopped before their learning rate had decayed; all if the recipe asks.

    A point whose row does not say whether it had decayed is kept.
    """
    return table if fit.include_unannealed else table[~unannealed(table)]


def for_laws(table: pd.DataFrame, fit: Fit) -> pd.DataFrame:
    """The points that a law is fitted to: of one family, and annealed as far as is known."""
    return annealed_only(one_family(table), fit)


def trends(table: pd.DataFrame, fit: Fit, convention: str) -> list[LogLinearFit]:
    """A line through the points of each source that has enough of them."""
    from analysis.fitting.trend import MINIMUM_COMPUTES, fit_sources

    kept = for_laws(table, fit)
    computes = kept[kept["trained"].astype(bool)].groupby("source")["compute"].nunique()
    enough = set(computes[computes >= MINIMUM_COMPUTES].index)
    family = one_family(table)
    points_of_law = family[family["source"].isin(enough)]
    return fit_sources(points_of_law, convention, include_unannealed=fit.include_unannealed)


def _sources(recipe: Recipe, recalls: Mapping[str, Recall]) -> list[str]:
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
        if cell.kind != "trained" or train_values(recipe, cell) is None:
            continue
        labels, per_crop = _labels(recipe, cell), _compute(cell, 1, convention)
        for entry in validations(recipe, cell)[0]:
            at = {"crops": entry.crops, "compute": per_crop * entry.crops, "loss": entry.validation_loss}
            rows.append(labels | at)
    return pd.DataFrame(rows, columns=[*CURVE_COLUMNS, *_places(recipe, cells)])


def finals(recipe: Recipe, cells: Sequence[Cell]) -> pd.DataFrame:
    """How each trained cell ended: columns cell, dataset_rank (in the nested order) and annealed."""
    import pandas as pd

    rows = [
        {"cell": cell.id, "dataset_rank": recipe.grid.datasets.index(cell.dataset), "annealed": annealed(cell, trained)}
        for cell in cells
        if cell.kind == "trained" and cell.dataset and (trained := train_values(recipe, cell)) is not None
    ]
    return pd.DataFrame(rows, columns=["cell", "dataset_rank", "annealed"]).astype({"annealed": "boolean"})


def _places(recipe: Recipe, cells: Sequence[Cell]) -> list[str]:
    """The columns that say where a cell is on the grid's axes, at which share of its run it ends, and of which run."""
    return [*axis_names(recipe.grid), *([END, TRUNK] if any(cell.has_end for cell in cells) else [])]


def _labels(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    return {
        "cell": cell.id,
        **cell.labels(),
        END: cell.training.share if cell.training else None,
        TRUNK: _trunk(cell),
        "dataset_rank": recipe.grid.datasets.index(cell.dataset) if cell.dataset else None,
        "trained": cell.is_point,
        "kind": cell.network_kind or cell.kind,
    }


def _trunk(cell: Cell) -> str | None:
    """The first cell of a trained cell's run; branches of one trunk have the same."""
    if cell.training is None:
        return None
    while cell.start is not None:
        cell = cell.start
    return cell.id


def _compute(cell: Cell, crops: int, convention: str) -> float:
    """NaN for a baseline: it was not trained, so it has no compute."""
    if not cell.is_point or cell.architecture is None:
        return float("nan")
    return compute(convention, cost_of(cell.architecture), crops)


def trained_runs(recipe: Recipe, cells: Sequence[Cell], convention: str) -> pd.DataFrame:
    """One row per trained cell that reconstructs and is finished, not stopped, with its final validation loss."""
    import pandas as pd

    rows = [
        _labels(recipe, cell)
        | {"crops": values.crops, "compute": _compute(cell, values.crops, convention)}
        | {"annealed": annealed(cell, values), "loss": values.validation_loss}
        for cell in cells
        if cell.kind == "trained" and not cell.is_classifier
        if (values := train_values(recipe, cell)) is not None and values.validation_loss is not None
        if values.stopped is None
    ]
    same = [name for name in POINT_COLUMNS if not name.startswith(("recall", "source", "chance", "pairs", "genes"))]
    table = pd.DataFrame(rows, columns=[*same, "loss", *_places(recipe, cells)])
    return table.astype({"patch": "Int64", "annealed": "boolean", "compute": "float64"})
