"""Fields that were renamed: recipes with an old name are still read, and the note says the new one."""

from __future__ import annotations

from typing import Any

from harness.recipe.errors import RecipeError, SourceLines, dotted
from harness.recipe.fields import FieldPath

RENAMED: dict[FieldPath, str] = {("launch", "embed_elements"): "embed_jobs"}
"""The path of an old field, and its name today, in the same section."""


def accept_old_names(tree: dict[str, Any], places: SourceLines, prefix: FieldPath = ()) -> list[str]:
    """Rename old fields of a recipe, or of the profile at `prefix`, in place, and return a note for each.

    Raises:
        RecipeError: a field is given under both names.
    """
    notes = []
    for path, name in RENAMED.items():
        *parents, old = path
        section: Any = tree
        for key in parents:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict) or old not in section:
            continue
        place = places.get((*prefix, *path))
        if name in section:
            raise RecipeError(f"{place}: {dotted(path)} is the old name of {name}, which is given too: remove it")
        section[name] = section.pop(old)
        _move(places, (*prefix, *path), (*prefix, *parents, name))
        notes.append(f"{place}: {_renamed(path, name)}")
    return notes


def current_path(path: FieldPath) -> tuple[FieldPath, str | None]:
    """An override's path under its name of today, and a note if that is another one."""
    name = RENAMED.get(path)
    return (path, None) if name is None else ((*path[:-1], name), _renamed(path, name))


def _move(places: SourceLines, old: FieldPath, new: FieldPath) -> None:
    for path in [path for path in places if path[: len(old)] == old]:
        places[(*new, *path[len(old) :])] = places.pop(path)


def _renamed(path: FieldPath, name: str) -> str:
    return f"{dotted(path)} is now called {dotted((*path[:-1], name))}; the old name is still read"
