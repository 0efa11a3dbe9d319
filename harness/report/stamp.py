"""The report's stamp: what it was made of and the files that were written, so that it is drawn again only if needed."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import analysis
import harness
from harness.grid.cell import Cell, fingerprint
from harness.grid.cell_folder import PAIR_OUTCOMES, RECONSTRUCTIONS, cell_folder
from harness.plan.cost import CellPlan
from harness.recipe.schema import Recipe
from harness.report.rows import log_path
from harness.storage import ledger
from harness.storage.checksums import Damaged, check, checksum, read_checksummed, write_checksummed

STAMP, FORECASTS = "stamp.json", "forecasts"
PACKAGES = ("torch", "timm", "numpy", "pandas", "plotly", "matplotlib", "scipy")
SOURCES = {".py", ".js", ".css", ".csv"}  # of the code that draws: modules, the page's assets, the paper's tables


def inputs(recipe: Recipe, grid: Sequence[Cell], plans: Sequence[CellPlan]) -> str:
    """A digest of everything that the report shows: recipe, plan, rows, logs, saved crops, code and packages."""
    planned = [[plan.cell.id, plan.all_hours, plan.gpus, plan.flops] for plan in plans]
    files = [[str(path.relative_to(recipe.output)), _digest(path)] for path in _files(recipe, grid)]
    others = sorted(path.name for path in recipe.output.glob("ledger/*"))
    return fingerprint([recipe.model_dump(mode="json"), planned, files, others, code(), packages()])


def is_current(folder: Path, digest: str) -> bool:
    """Whether the report in a folder was made of the same inputs, and all of its files are as they were written."""
    try:
        stamp = read_checksummed(folder / STAMP)
        check(folder, stamp["files"], stamp["files"])
    except (Damaged, KeyError):  # no report yet, one of an earlier version, or not a complete one
        return False
    return stamp.get("inputs") == digest


def written_before(folder: Path) -> list[Path]:
    """The files of the report in a folder, as far as its stamp can be read."""
    try:
        return [folder / name for name in read_checksummed(folder / STAMP)["files"]]
    except (Damaged, KeyError):
        return []


def write(folder: Path, digest: str, written: Sequence[Path]) -> None:
    """Record the inputs and the files of a report that is complete."""
    files: dict[str, Any] = {path.name: checksum(path) for path in written}
    write_checksummed(folder / STAMP, {"inputs": digest, "files": files})


def packages() -> dict[str, str]:
    """The versions of what computes and draws the report."""
    names = ("microscopy-scaling", *PACKAGES)
    return {"Python": platform.python_version()} | {name: version(name) for name in names}


@cache
def code() -> str:
    """A digest of the sources of `harness` and `analysis`."""
    digests = []
    for package in (harness, analysis):
        root = Path(str(package.__file__)).parent
        paths = sorted(path for path in root.rglob("*") if path.suffix in SOURCES)
        digests += [[package.__name__, str(path.relative_to(root)), _digest(path)] for path in paths]
    return fingerprint(digests)


def _files(recipe: Recipe, grid: Sequence[Cell]) -> Iterator[Path]:
    yield from sorted((recipe.output / FORECASTS).glob("*.json"))
    for cell in grid:
        yield from (ledger.row_path(recipe.output, cell.id, stage) for stage in ledger.STAGES)
        yield log_path(recipe, cell)
        yield cell_folder(recipe, cell) / RECONSTRUCTIONS
        yield cell_folder(recipe, cell) / PAIR_OUTCOMES


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None if it is missing or cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
