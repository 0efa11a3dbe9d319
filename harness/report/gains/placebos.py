"""What placebos recall of each source, beside the study's best trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.grid.cell import Cell
from harness.recipe.schema import Recipe
from harness.report.rows import EvaluateValues, Placebo, evaluate_values

if TYPE_CHECKING:
    import pandas as pd

    from analysis.recall.placebos import PlaceboRecall

PIXELS = "pixel_statistics"
COLUMNS = ("source", "placebo", "recall", "low", "high", "chance", "model", "model_recall", "share", "suspect")
MEANING = {
    "random_features": "random numbers in place of features",
    "shuffled_pairs": "the model's features, with the genes of the pairs exchanged",
    "well_position": "row and column of the well alone",
    "cell_count": "number of cells alone",
    "intensity": "mean intensity of each channel alone",
    "pixel_statistics": "mean and deviation of each channel alone",
}


def placebos(recipe: Recipe, grid: Sequence[Cell], points: pd.DataFrame) -> pd.DataFrame:
    """A row per source and placebo, COLUMNS; empty while no trained cell is evaluated."""
    import pandas as pd

    trained = points[points["trained"].astype(bool)]
    rows = []
    for source, of_source in trained.groupby("source", sort=False):
        best = of_source.sort_values("recall").iloc[-1]
        cell = next(cell for cell in grid if cell.id == best["cell"])
        for found in _of(recipe, grid, cell, str(source)):
            share = found.share(best["recall"])
            same = {"source": source, "placebo": found.placebo, "recall": found.recall, "low": found.low}
            same |= {"high": found.high, "chance": found.chance, "model": best["model"]}
            rows.append(
                same | {"model_recall": best["recall"], "share": share, "suspect": found.is_suspect(best["recall"])}
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _of(recipe: Recipe, grid: Sequence[Cell], cell: Cell, source: str) -> Iterator[PlaceboRecall]:
    """The placebos of the cell's own row, and those that the cell of pixel statistics has."""
    pixels = next((evaluate_values(recipe, one) for one in grid if one.kind == PIXELS), None)
    own = evaluate_values(recipe, cell)
    seen = set()
    for values in (own, pixels):
        for name, by_source in (values.placebos if values else {}).items():
            if source in by_source and name not in seen:
                seen.add(name)
                yield _recall(name, source, by_source[source])
    if pixels is not None and (found := _of_pixels(pixels, source)) is not None:
        yield found


def _recall(name: str, source: str, values: Placebo) -> PlaceboRecall:
    from analysis.recall.placebos import PlaceboRecall

    return PlaceboRecall(name, source, values.recall, values.recall_low, values.recall_high, values.chance)


def _of_pixels(values: EvaluateValues, source: str) -> PlaceboRecall | None:
    from analysis.recall.placebos import PlaceboRecall

    row = values.recall.get(source)
    if row is None or row.recall_low is None or row.recall_high is None:
        return None
    return PlaceboRecall(PIXELS, source, row.recall, row.recall_low, row.recall_high, row.chance)


def warnings(table: pd.DataFrame) -> list[str]:
    """A sentence for each placebo that reaches half of the best model's recall over chance."""
    return [
        f"{row['source']}: {row['placebo']} ({MEANING.get(row['placebo'], 'a placebo')}) recalls {row['recall']:.3f}, "
        f"which is {_share(row['share'])} of what {row['model']} recalls over chance"
        for row in table[table["suspect"].astype(bool)].to_dict("records")
    ]


def _share(share: float) -> str:
    return f"{share:.0%}" if share <= 1 else "more than all"
