"""The report's panels of a grid with axes, as files and for the page: compute multipliers, and best learning rates.

`multipliers.csv`, a forest plot `multipliers_<axis>` for each axis, and `best_rates`. Other recipes have none of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.grid.cell import Cell
from harness.recipe.axes import short_names
from harness.recipe.schema import Recipe
from harness.report.comparisons import multipliers as comparing
from harness.report.comparisons import rates
from harness.report.comparisons.multipliers import AxisComparisons, Compared
from harness.storage.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.page.study import BestRates, MultiplierRow, Multipliers

PNG = ".png"


@dataclass(frozen=True)
class Panels:
    """What was written, and the same for the page."""

    multipliers: tuple[Multipliers, ...]
    best_rates: BestRates | None
    written: tuple[Path, ...]


def write_panels(recipe: Recipe, folder: Path, grid: Sequence[Cell], formats: Sequence[str]) -> Panels:
    """Write the panels into the report's folder."""
    from analysis.figures.csv_table import csv_table

    written: list[Path] = []
    compared = comparing.multipliers(recipe, grid)
    if compared:
        csv = csv_table(comparing.table(compared))
        written.append(folder / "multipliers.csv")
        write_atomic(written[0], lambda file: file.write(csv.encode()))
    shown = []
    for along in compared:
        files = _save(comparing.figure(along), folder / _file_name(recipe, along.axis), formats)
        shown.append(_multipliers(along, _png(files)))
        written += files
    best, files = _best_rates(recipe, folder, grid, formats)
    return Panels(tuple(shown), best, (*written, *files))


def _file_name(recipe: Recipe, axis: str) -> str:
    """`multipliers_mask_ratio`; names of fields have no other characters, and are told apart where they end alike."""
    short = short_names(list(recipe.grid.axes)).get(axis, axis)
    return f"multipliers_{re.sub(r'[^A-Za-z0-9_]', '-', short)}"


def _save(figure: Figure | None, path: Path, formats: Sequence[str]) -> list[Path]:
    from analysis.figures.save import save

    return [] if figure is None else [*save(figure, path, formats)]


def _png(files: Sequence[Path]) -> bytes | None:
    return next((path.read_bytes() for path in files if path.suffix == PNG), None)


def _multipliers(along: AxisComparisons, image: bytes | None) -> Multipliers:
    from analysis.page.study import Multipliers

    rows = [_row(one) for one in along.compared]
    return Multipliers(along.axis, along.baseline, along.why, rows, along.notes, image)


def _row(one: Compared) -> MultiplierRow:
    from analysis.page.study import MultiplierRow

    if one.comparison is None:
        return MultiplierRow(one.variant, one.metric, None, None, None, one.failed)
    found = one.comparison.shared
    low, high = found.low or None, found.high if math.isfinite(found.high) else None
    value = found.value if found.identified else None
    return MultiplierRow(one.variant, one.metric, value, low, high, comparing.says(one), one.comparison.warnings)


def _best_rates(
    recipe: Recipe, folder: Path, grid: Sequence[Cell], formats: Sequence[str]
) -> tuple[BestRates | None, list[Path]]:
    from analysis.page.study import BestRates

    sweeps = rates.rate_sweeps(recipe, grid)
    if not sweeps:
        return None, []
    files = _save(rates.figure(sweeps), folder / "best_rates", formats)
    return BestRates([sweep.text for sweep in sweeps], _png(files)), files
