"""Reconstructions of masked crops by trained cells, which their embedding stage saved, for the report to draw."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.grid.cell import Cell
from harness.grid.cell_folder import RECONSTRUCTIONS, cell_folder
from harness.recipe.schema import Recipe
from harness.report.rows import train_values
from harness.storage.remembered import Remembered

if TYPE_CHECKING:
    from analysis.figures.reconstructions import ReconstructionRow
    from analysis.page.study import Sample

DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, zlib.error)  # of NumPy's archives
MAX_SAMPLES = 60  # of about 80 kB each in the page


def reconstructing(recipe: Recipe, grid: Sequence[Cell]) -> list[tuple[float, Cell, Path]]:
    """Validation loss, cell and file of every trained cell with crops that can be drawn, lowest loss first."""
    rows = [(loss, cell, path) for loss, cell, path in _saved(recipe, grid) if _damage(path) is None]
    return sorted(rows, key=lambda one: (one[0], one[1].id))


def damaged(recipe: Recipe, grid: Sequence[Cell]) -> Iterator[tuple[Path, str]]:
    """Files of crops that cannot be drawn, and why."""
    for _, _, path in _saved(recipe, grid):
        reason = _damage(path)
        if reason is not None:
            yield path, reason


def _saved(recipe: Recipe, grid: Sequence[Cell]) -> list[tuple[float, Cell, Path]]:
    return [
        (values.validation_loss, cell, path)
        for cell in grid
        if cell.kind == "trained"
        and (values := train_values(recipe, cell)) is not None
        and values.validation_loss is not None
        and (path := cell_folder(recipe, cell) / RECONSTRUCTIONS).exists()  # a classifier reconstructs nothing
    ]


def _damage(path: Path) -> str | None:
    """Why the crops of a file cannot be drawn; None if they can."""
    try:
        return _CHECKED.read(str(path), lambda: _fault(path))
    except OSError:
        return _fault(path)


def _fault(path: Path) -> str | None:
    try:
        read(path)
    except DAMAGE as error:
        return f"not crops that can be drawn ({error})"
    return None


_CHECKED: Remembered[str | None] = Remembered()


def read(path: Path) -> tuple[list[ReconstructionRow], list[str]]:
    """The crops of one cell, and the names of their channels.

    Raises:
        `DAMAGE`: not an archive of crops, or crops of other shapes than `analysis.figures.reconstructions` draws.
    """
    import numpy as np

    from analysis.figures.reconstructions import ReconstructionRow, check

    with np.load(path, allow_pickle=False) as arrays:
        rows = [
            ReconstructionRow(str(label), original, mask[0] if len(mask) == 1 else mask, filled)
            for label, original, mask, filled in zip(
                *(arrays[name] for name in ("wells", "original", "mask", "reconstruction")), strict=True
            )
        ]
        channels = [str(name) for name in arrays["channels"]]
    check(rows, channels)
    return rows, channels


def samples(recipe: Recipe, grid: Sequence[Cell]) -> list[Sample]:
    """The first crop of every cell that reconstructs, lowest loss first."""
    from analysis.figures.reconstructions import strip
    from analysis.page.study import Sample

    first_crops = []
    for loss, cell, path in reconstructing(recipe, grid)[:MAX_SAMPLES]:
        crops, channels = read(path)
        first_crops.append(Sample(cell.id, loss, strip(crops[0], channels)))
    return first_crops
