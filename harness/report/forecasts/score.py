"""Score the sealed forecasts of a study whose cells are done: rows for the page, a CSV file, and lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.forecast.scores import Prediction, Scored, score, summary
from harness.grid.cell import Cell
from harness.recipe.schema import Recipe
from harness.report.forecasts.predict import LOSS, MEAN
from harness.report.forecasts.seal import CellForecast, Sealed, SealError, read_all
from harness.report.rows import annealed, evaluate_values, train_values

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "forecast", "time", "cell", "metric", "confidence", "predicted", "low", "high", "measured", "error", "inside",
    "inside_so_far", "scored_so_far", "coverage_so_far", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What was measured of a cell by metric; `note` says why nothing counts."""

    measured: dict[str, float]
    note: str = ""


def verified(recipe: Recipe) -> tuple[list[Sealed], SealError | None]:
    """The sealed forecasts of a study, or none and what is wrong with them."""
    try:
        return read_all(recipe), None
    except SealError as error:
        return [], error


def scores(recipe: Recipe, grid: Sequence[Cell], sealed: Sequence[Sealed]) -> list[Scored]:
    """Every prediction of the sealed forecasts, in their order, with its score where its cell is done."""
    by_id = {cell.id: cell for cell in grid}
    outcomes: dict[str, Outcome] = {}
    predictions = []
    for one in sealed:
        for cell in one.forecast.cells:
            if cell.cell not in outcomes:
                outcomes[cell.cell] = _outcome(recipe, by_id.get(cell.cell))
            predictions += _predictions(one, cell, outcomes[cell.cell])
    return score(predictions)


def _predictions(sealed: Sealed, cell: CellForecast, outcome: Outcome) -> list[Prediction]:
    forecast = sealed.forecast
    begun = f"{cell.steps_seen} steps were trained when it was made" if cell.steps_seen else ""
    return [
        Prediction(
            forecast.number, forecast.time, cell.cell, one.metric, forecast.confidence, one.value, one.low, one.high,
            outcome.measured.get(one.metric), "; ".join(filter(None, [one.cannot_tell, outcome.note, begun])),
        )
        for one in cell.predicted
    ]  # fmt: skip


def _outcome(recipe: Recipe, cell: Cell | None) -> Outcome:
    """What a cell came to. A run that stopped before its rate had decayed is not what was forecast."""
    if cell is None:
        return Outcome({}, "not scored: no cell of this recipe's grid")
    trained, done = train_values(recipe, cell), evaluate_values(recipe, cell)
    if trained is not None and trained.stopped:
        return Outcome({}, "not scored: stopped by launch.stop_when")
    if trained is not None and annealed(cell, trained) is False:
        return Outcome({}, "not scored: training stopped before the learning rate had decayed")
    measured: dict[str, float] = {}
    if trained is not None and trained.validation_loss is not None:
        measured[LOSS] = trained.validation_loss
    if done is not None:
        measured |= {source: row.recall for source, row in done.recall.items()}
        measured[MEAN] = sum(row.recall for row in done.recall.values()) / len(done.recall)
    return Outcome(measured)


def table(scored: Sequence[Scored]) -> pd.DataFrame:
    """The scores as a table with `COLUMNS`."""
    import pandas as pd

    rows = []
    for one in scored:
        made = one.prediction
        rows.append((
            made.forecast, made.time, made.cell, made.metric, made.confidence, made.value, made.low, made.high,
            made.measured, one.error, one.is_inside, one.inside, one.scored, one.coverage, made.note,
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def lines(recipe: Recipe, grid: Sequence[Cell]) -> list[str]:
    """What a terminal is told of the sealed forecasts; nothing if there are none."""
    sealed, error = verified(recipe)
    if error is not None:
        return [f"forecasts are not scored: {error}"]
    if not sealed:
        return []
    found = scores(recipe, grid, sealed)
    return [f"{len(sealed)} sealed forecasts, the last {sealed[-1].seal}", *(f"  {line}" for line in summary(found))]
