"""Write the report: tables and plots of what is in the ledger, drawn again only if something that it shows has changed.

`<output>/report/`: report.html, which holds all of it in one file; points.csv and .parquet, curves.csv, fits.json,
recall.tex; what training adds (`gains/panels`); loss_versus_compute and recall_versus_compute as PNG, SVG and PDF,
reconstructions as PNG and SVG; of a grid with axes also what `comparisons/panels` writes; forecasts.csv where forecasts
were sealed. It works on a half-finished sweep. What cannot be used is left out and named on stderr and on the page.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.recipe.schema import Recipe
from harness.report import stamp
from harness.report.comparisons.panels import Panels, write_panels
from harness.report.gains.panels import GainPanel, write_gains
from harness.report.left_out import LeftOut, left_out
from harness.report.page.data import plans
from harness.storage.atomic import write_atomic, write_json

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("png", "svg", "pdf")


def report(recipe: Recipe) -> list[Path]:
    """Write the report, and return the files written; none if it is up to date."""
    folder, grid = recipe.output / "report", cells(recipe)
    inputs, missing = stamp.inputs(recipe, grid, plans(recipe, grid)), left_out(recipe, grid)
    for file in missing:
        print(f"left out of the report: {file}", file=sys.stderr)
    if stamp.is_current(folder, inputs):
        return []
    before = stamp.written_before(folder)
    written = _write(recipe, folder, grid, missing)
    for path in set(before) - set(written):  # of a state in which there was more to draw
        path.unlink(missing_ok=True)
    stamp.write(folder, inputs, written)
    return written


def has_faults(recipe: Recipe) -> bool:
    """Whether something is wrong with a file that the report leaves out."""
    return any(file.is_fault for file in left_out(recipe, cells(recipe)))


def _write(recipe: Recipe, folder: Path, grid: Sequence[Cell], missing: Sequence[LeftOut]) -> list[Path]:
    from harness.recipe.axes import axis_names
    from harness.report import points
    from harness.report.facets import by_facet

    convention = recipe.fit.convention
    curves, table = points.curves(recipe, grid, convention), points.points(recipe, grid, convention)
    written = [_csv(folder / "curves.csv", curves), _csv(folder / "points.csv", table)]
    if (curves["compute"] > 0).any():
        written += _loss_figure(recipe, folder, curves, grid)
    if table["trained"].any():
        written += _recall_figure(recipe, folder, by_facet(table, axis_names(recipe.grid)))
    written += _exports(folder, table, axis_names(recipe.grid))
    written += _forecasts(recipe, folder, grid)
    panels = write_panels(recipe, folder, grid, FORMATS)
    training = write_gains(recipe, folder, grid, table, FORMATS)
    crops = _reconstructions(recipe, folder, grid)
    page = _page(recipe, folder, crops[0] if crops else None, missing, panels, training)
    return [*written, *training.written, *panels.written, *crops, page]


def _page(
    recipe: Recipe, folder: Path, crops: Path | None, missing: Sequence[LeftOut], panels: Panels, training: GainPanel
) -> Path:
    """The study as one HTML file, with the figure of reconstructions in it."""
    from analysis.page.render import page
    from harness.report.page.data import study

    shown = study(
        recipe, crops, missing,
        multipliers=panels.multipliers, best_rates=panels.best_rates, gain=training.shown,
    )  # fmt: skip
    path, text = folder / "report.html", page(shown)
    write_atomic(path, lambda file: file.write(text.encode()))
    return path


def _exports(folder: Path, table: pd.DataFrame, axes: Sequence[str]) -> list[Path]:
    """Points as Parquet, and recall per cell as a LaTeX table."""
    from analysis.figures.latex_table import latex_table
    from harness.recipe.axes import END, short_names

    places = short_names(axes) | ({END: END} if END in table else {})
    titles = {name: title.capitalize() for name, title in places.items()}
    parquet, latex = folder / "points.parquet", folder / "recall.tex"
    write_atomic(parquet, lambda file: table.to_parquet(file, index=False))
    write_atomic(latex, lambda file: file.write(latex_table(table, titles).encode()))
    return [parquet, latex]


def _forecasts(recipe: Recipe, folder: Path, grid: Sequence[Cell]) -> list[Path]:
    """The scores of sealed forecasts, if there are any."""
    from harness.report.forecasts.score import scores, table, verified

    sealed, _ = verified(recipe)
    return [_csv(folder / "forecasts.csv", table(scores(recipe, grid, sealed)))] if sealed else []


def _csv(path: Path, table: pd.DataFrame) -> Path:
    from analysis.figures.csv_table import csv_table

    write_atomic(path, lambda file: file.write(csv_table(table).encode()))
    return path


def _loss_figure(recipe: Recipe, folder: Path, curves: pd.DataFrame, grid: Sequence[Cell]) -> list[Path]:
    from analysis.figures.loss import loss_versus_compute
    from analysis.figures.save import save
    from harness.recipe.axes import axis_names, point_name
    from harness.report.points import finals

    axes = axis_names(recipe.grid)
    names = [point_name(dict(zip(axes, row, strict=True))) for row in curves[axes].itertuples(index=False)]
    figure = loss_versus_compute(curves.assign(facet=names), finals(recipe, grid), recipe.fit.convention)
    return [*save(figure, folder / "loss_versus_compute", FORMATS)]


def _recall_figure(recipe: Recipe, folder: Path, table: pd.DataFrame) -> list[Path]:
    from analysis.figures.recall import recall_versus_compute
    from analysis.figures.save import save
    from analysis.reference.tables import table6
    from harness.report.points import trends

    convention = recipe.fit.convention
    is_trained = table["trained"].astype(bool)
    trained, baselines = table[is_trained], table[~is_trained]
    fits = trends(table, recipe.fit, convention)
    write_json(folder / "fits.json", [fit.summary() for fit in fits])
    overlay = table6() if recipe.fit.overlay_table6 else None
    figure = recall_versus_compute(trained, fits, baselines, convention, table6=overlay)
    return [folder / "fits.json", *save(figure, folder / "recall_versus_compute", FORMATS)]


def _reconstructions(recipe: Recipe, folder: Path, grid: Sequence[Cell]) -> list[Path]:
    """The figure of the trained cell with the lowest validation loss, of those that reconstruct."""
    from analysis.figures.reconstructions import reconstructions
    from analysis.figures.save import save
    from harness.report.reconstructions import read, reconstructing

    best = reconstructing(recipe, grid)[:1]
    return [path for _, _, file in best for path in save(reconstructions(*read(file)), folder / "reconstructions")]
