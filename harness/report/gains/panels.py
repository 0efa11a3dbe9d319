"""The report's panel of what training adds: gains.csv, gain_fits.json, gain_versus_compute, placebos.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.grid.cell import Cell
from harness.recipe.axes import END, axis_names
from harness.recipe.schema import Recipe
from harness.report.facets import by_facet
from harness.report.gains.gains import GAIN_COLUMNS, gains, sentence
from harness.report.gains.placebos import placebos, warnings
from harness.report.points import trends
from harness.storage.atomic import write_atomic, write_json

if TYPE_CHECKING:
    import pandas as pd

    from analysis.fitting.trend import LogLinearFit
    from analysis.page.gains import TrainingGain

FILE_COLUMNS = ("model", "size", "patch", "dataset", "source", "recall", "crops", "compute", "annealed", "pairs")


@dataclass(frozen=True)
class GainPanel:
    """What was written, and the same for the page; None where no trained cell is evaluated."""

    shown: TrainingGain | None
    written: tuple[Path, ...]


def write_gains(
    recipe: Recipe, folder: Path, grid: Sequence[Cell], points: pd.DataFrame, formats: Sequence[str]
) -> GainPanel:
    """Write the panel into the report's folder.

    Args:
        recipe: the study.
        folder: of the report.
        grid: its cells.
        points: `harness.report.points.points` in the recipe's convention.
        formats: of the figure.
    """
    from analysis.page.gains import TrainingGain

    if not points["trained"].any():
        return GainPanel(None, ())
    found, panel = gains(recipe, grid, points), placebos(recipe, grid, points)
    axes = axis_names(recipe.grid)
    per_cell, means = by_facet(found.cells, axes), by_facet(found.means, axes)
    fits = trends(per_cell, recipe.fit, recipe.fit.convention) if len(per_cell) else []
    places = [*axes, *([END] if END in found.means else [])]
    files = [
        _csv(folder / "gains.csv", found.means[[*FILE_COLUMNS, *places, *GAIN_COLUMNS]]),
        _csv(folder / "placebos.csv", panel),
    ]
    figure = _figure(recipe, folder, by_facet(points, axes), means, fits, formats) if len(means) else []
    says = [_sentence(str(source), rows, fits) for source, rows in means.groupby("source", sort=False)]
    rows = [{str(name): value for name, value in row.items()} for row in panel.to_dict("records")]
    image = next((path.read_bytes() for path in figure if path.suffix == ".png"), None)
    shown = TrainingGain(says, found.missing, warnings(panel), rows, image)
    return GainPanel(shown, (*files, *figure))


def _sentence(source: str, rows: pd.DataFrame, fits: Sequence[LogLinearFit]) -> str:
    fit = next((fit for fit in fits if fit.source == source), None)
    return sentence(source, rows, _law(fit))


def _law(fit: LogLinearFit | None) -> str:
    if fit is None:
        return ""
    ends = f"{fit.slope.confidence:.0%} interval {fit.slope.low:+.3f} to {fit.slope.high:+.3f}"
    trend = "rises" if fit.slope.low > 0 else "falls" if fit.slope.high < 0 else "shows no clear trend"
    return f" Against compute the gain {trend}: {fit.law.slope:+.3f} per decade ({ends}, {fit.runs} runs)."


def _figure(
    recipe: Recipe, folder: Path, points: pd.DataFrame, means: pd.DataFrame, fits: Sequence[LogLinearFit],
    formats: Sequence[str],
) -> list[Path]:  # fmt: skip
    from analysis.figures.gain import gain_versus_compute
    from analysis.figures.save import save

    write_json(folder / "gain_fits.json", [fit.summary() for fit in fits])
    trained = points[points["trained"].astype(bool)]
    figure = gain_versus_compute(trained, means, fits, recipe.fit.convention)
    return [folder / "gain_fits.json", *save(figure, folder / "gain_versus_compute", formats)]


def _csv(path: Path, table: pd.DataFrame) -> Path:
    from analysis.figures.csv_table import csv_table

    write_atomic(path, lambda file: file.write(csv_table(table).encode()))
    return path
