"""Write the report: tables and plots of what is in the ledger, drawn again only when the ledger has changed.

`<output>/report/`: report.html, which holds all of it in one file; points.csv and .parquet, curves.csv, fits.json,
recall.tex; loss_versus_compute and recall_versus_compute as PNG, SVG and PDF, reconstructions as PNG and SVG. It works
on a half-finished sweep.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.grid.cells import Cell, cells, fingerprint
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.atomic import write_atomic, write_json

if TYPE_CHECKING:
    import pandas as pd

REPORT_VERSION = 5
FORMATS = ("png", "svg", "pdf")


def report(recipe: Recipe) -> list[Path]:
    """Write the report, and return the files written; none if it is up to date."""
    folder = recipe.output / "report"
    stamp = _stamp(recipe)
    try:
        if json.loads((folder / "stamp.json").read_text())["stamp"] == stamp:
            return []
    except (OSError, ValueError, KeyError):
        pass  # no report yet, or not a complete one
    written = _write(recipe, folder)
    write_json(folder / "stamp.json", {"stamp": stamp})
    return written


def _stamp(recipe: Recipe) -> str:
    """What the report depends on: the ledger's fingerprints and the settings that it is drawn with."""
    rows = [
        [row.cell, row.stage, row.fingerprint] for stage in ledger.STAGES for row in ledger.rows(recipe.output, stage)
    ]
    return fingerprint([REPORT_VERSION, rows, recipe.fit.model_dump(mode="json"), recipe.grid.model_dump(mode="json")])


def _write(recipe: Recipe, folder: Path) -> list[Path]:
    from harness.report import points

    grid, convention = cells(recipe), recipe.fit.convention
    curves, table = points.curves(recipe, grid, convention), points.points(recipe, grid, convention)
    written = [_csv(folder / "curves.csv", curves), _csv(folder / "points.csv", table)]
    if len(curves):
        written += _loss_figure(recipe, folder, curves, grid)
    if table["trained"].any():
        written += _recall_figure(recipe, folder, table)
    written += _exports(folder, table)
    return written + _reconstructions(recipe, folder, grid) + [_page(recipe, folder)]


def _page(recipe: Recipe, folder: Path) -> Path:
    """The study as one HTML file; needs the figures written before."""
    from analysis.page.render import page
    from harness.report.page_data import study

    path, text = folder / "report.html", page(study(recipe))
    write_atomic(path, lambda file: file.write(text.encode()))
    return path


def _exports(folder: Path, table: pd.DataFrame) -> list[Path]:
    """Points as Parquet, and recall per cell as a LaTeX table."""
    from analysis.figures.latex_table import latex_table

    parquet, latex = folder / "points.parquet", folder / "recall.tex"
    write_atomic(parquet, lambda file: table.to_parquet(file, index=False))
    write_atomic(latex, lambda file: file.write(latex_table(table).encode()))
    return [parquet, latex]


def _csv(path: Path, table: pd.DataFrame) -> Path:
    write_atomic(path, lambda file: table.to_csv(file, index=False))
    return path


def _loss_figure(recipe: Recipe, folder: Path, curves: pd.DataFrame, grid: Sequence[Cell]) -> list[Path]:
    from analysis.figures.loss import loss_versus_compute
    from analysis.figures.save import save
    from harness.report.points import dataset_ranks

    figure = loss_versus_compute(curves, dataset_ranks(recipe, grid), recipe.fit.convention)
    return [*save(figure, folder / "loss_versus_compute", FORMATS)]


def _recall_figure(recipe: Recipe, folder: Path, table: pd.DataFrame) -> list[Path]:
    from analysis.figures.recall import recall_versus_compute
    from analysis.figures.save import save
    from analysis.fitting.trend import MINIMUM_COMPUTES, fit_sources
    from analysis.reference.tables import table6
    from harness.report.points import one_family

    convention = recipe.fit.convention
    is_trained = table["trained"].astype(bool)
    trained, baselines = table[is_trained], table[~is_trained]
    family = one_family(table)
    computes = family.loc[family["trained"].astype(bool), "compute"].nunique()
    fits = fit_sources(family, convention) if computes >= MINIMUM_COMPUTES else []
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
