"""The verb `forecast`: predict cells that are not done, seal the prediction, and print it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from analysis.figures.text_table import text_table
from harness.grid.cell import Cell
from harness.recipe.schema import Recipe
from harness.report.forecasts.seal import CellForecast, Predicted, Sealed, write

LEFT = ("cell", "metric", "law", "")


def seal_forecast(recipe: Recipe, named: Sequence[Cell]) -> Sealed:
    """Predict the named cells, or all that are not done, and seal the prediction.

    Raises:
        ValueError: a cell is done or was stopped, or none is left.
        SealError: an earlier forecast is not as it was written.
    """
    from harness.report.forecasts.predict import forecast, open_cells, refusals

    chosen = list(named) or open_cells(recipe)
    if refused := refusals(recipe, chosen):
        raise ValueError("nothing was sealed: " + "; ".join(refused))
    if not chosen:
        raise ValueError("nothing was sealed: every trained cell is done")
    return write(recipe, partial(forecast, recipe, list({cell.id: cell for cell in chosen}.values())))


def as_json(sealed: Sealed) -> str:
    """The sealed file as it is on disk."""
    return sealed.path.read_text(encoding="utf-8").rstrip("\n")


def text(sealed: Sealed) -> str:
    """The forecast for a terminal."""
    rows = [_texts(cell, one) for cell in sealed.forecast.cells for one in cell.predicted]
    made = sealed.forecast
    return "\n".join([
        text_table(rows, LEFT),
        f"{made.confidence:.0%} intervals, from {made.rows} ledger rows, compute by {made.convention}",
        f"sealed as {sealed.path}",
        f"seal {sealed.seal}: publish it to prove when this was written",
    ])  # fmt: skip


def _texts(cell: CellForecast, one: Predicted) -> dict[str, str]:
    numbers = ["", ""]
    if one.value is not None:
        numbers = [f"{one.value:.4g}", f"[{one.low:.4g}, {one.high:.4g}]"]
    seen = "trained already" if cell.is_trained else f"{cell.steps_seen:,} steps seen" if cell.steps_seen else ""
    return {
        "cell": cell.cell, "metric": one.metric, "predicted": numbers[0], "interval": numbers[1],
        "law": one.law and f"{one.law}, {one.points} points", "": "; ".join(filter(None, [one.cannot_tell, seen])),
    }  # fmt: skip
