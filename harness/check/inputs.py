"""The files and folders that a recipe names: are they there, and may they be read? No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from harness.check.machine import may
from harness.check.problem import Problem
from harness.check.study import Study
from harness.grid.cells import weights_path
from harness.recipe.models import ProfilesSection
from harness.recipe.schema import Recipe, unknown_name


def files(study: Study) -> Iterator[Problem]:
    """Weights, tables of profiles and relationship lists that are not there."""
    if not study.needs_data:
        return
    for field, path in _files(study):
        if unusable := _unusable(path):
            yield Problem(field, unusable)


def _files(study: Study) -> Iterator[tuple[str, Path]]:
    for cell in study.distinct:
        weights = weights_path(study.recipe, cell)
        if weights is not None:
            yield f"models.{cell.model}.weights.path", weights
        model = study.recipe.models.get(cell.model)
        for number, table in enumerate(model.tables if isinstance(model, ProfilesSection) else ()):
            yield f"models.{cell.model}.tables.{number}", table
    evaluate, made = study.recipe.evaluate, _made(study.recipe)
    for name, path in (evaluate.relationships if evaluate else {}).items():
        if not any(path.is_relative_to(folder) for folder in made):
            yield f"evaluate.relationships.{name}", path


def _made(recipe: Recipe) -> list[Path]:
    """Folders that `prepare` makes and that are not there yet."""
    assay = recipe.prepare.assay
    return [assay.output] if assay is not None and not assay.output.exists() else []


def _unusable(path: Path) -> str | None:
    if not os.path.exists(path):  # noqa: PTH110  (False in a closed folder, where Path's raises)
        near = _nearest(path)
        lies = f"{path.parent} has {near}" if near else f"there is no folder {path.parent}, or it is closed to you"
        return f"{path} is not there; {lies}"
    if not os.path.isfile(path):  # noqa: PTH113
        return f"{path} is no file"
    return None if may(path, os.R_OK) else f"{path} may not be read by you: ask its owner, or copy it"


def _nearest(path: Path) -> str:
    """The names of a few files beside a path that is not there; empty if there is no such folder."""
    try:
        names = sorted(other.name for other in path.parent.iterdir() if not other.name.startswith("."))
    except OSError:
        return ""
    shown = ", ".join(names[:5]) or "no files"
    return shown + (f" and {len(names) - 5:,} others" if len(names) > 5 else "")


def builds(study: Study) -> Iterator[Problem]:
    """Sets that are to be built from a layout that is not known, or from a folder that is not there."""
    from shards.layouts.registry import LAYOUTS

    made = _made(study.recipe)
    for number, build in enumerate(study.recipe.prepare.build):
        field = f"prepare.build.{number}"
        if not study.is_to_be_built(build.output):
            continue
        if build.layout not in LAYOUTS:
            yield Problem(f"{field}.layout", unknown_name(build.layout, list(LAYOUTS)))
        root = Path(build.root)
        is_absent = "://" not in build.root and not root.is_dir() and root not in made
        if study.needs_data and is_absent:
            yield Problem(f"{field}.root", f"{root} is no folder here: name the folder of the images")
