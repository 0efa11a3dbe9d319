"""Axes of the grid: any field that changes a result, and named variants of several fields that change together.

A point is one combination of values. The recipe at a point is the recipe with those values in their fields, and is
checked as any recipe is. Pure functions; `grid/cells.py` makes cells of the recipe at each point.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, ValidationError

from harness.recipe.fields import FieldPath
from harness.recipe.schedules import WarmupStableDecay
from harness.recipe.schema import Grid, Recipe

SECTIONS = ("mae", "train", "models", "datasets")
"""Parts of a recipe whose fields change how a cell trains."""
OTHERS = {
    "embed": "changes what is done with a trained cell: give each its own recipe and output",
    "evaluate": "changes what is done with a trained cell: give each its own recipe and output",
    "grid": "holds the axes themselves",
    "prepare": "changes shards: build each under a name of its own, and name them in `datasets`",
}
VARIANT, END = "variant", "end"
MOST_CHECKED = 500
"""Points that are checked one by one when a recipe is loaded; of more, each value of each axis."""


@dataclass(frozen=True)
class Point:
    """A combination of values on the axes; without axes there is one, and it is empty."""

    variant: str | None = None
    values: tuple[tuple[str, JsonValue], ...] = ()

    def coordinates(self) -> dict[str, JsonValue]:
        """The variant and the value on each axis, by name."""
        return ({VARIANT: self.variant} if self.variant is not None else {}) | dict(self.values)


def points(grid: Grid) -> Iterator[Point]:
    """Every point: variants first, then the axes in the recipe's order, the last one fastest."""
    variants: list[str | None] = [*grid.variants] if grid.variants else [None]
    for variant in variants:
        for values in itertools.product(*grid.axes.values()):
            yield Point(variant, tuple(zip(grid.axes, values, strict=True)))


def axis_names(grid: Grid) -> list[str]:
    """The columns that say where a cell is on the axes."""
    return [*([VARIANT] if grid.variants else []), *grid.axes]


def short_names(axes: Sequence[str]) -> dict[str, str]:
    """The last part of each field's path, or all of it where two end alike."""
    short = [name.rpartition(".")[2] for name in axes]
    return {name: text if short.count(text) == 1 else name for name, text in zip(axes, short, strict=True)}


def point_name(place: Mapping[str, JsonValue]) -> str:
    """A point in words: `lion, mask_ratio=0.75`; axes along which a cell does not change are left out."""
    short = short_names(list(place))
    words = {name: str(value) if name == VARIANT else f"{short[name]}={value}" for name, value in place.items()}
    return ", ".join(word for name, word in words.items() if place[name] is not None)


def at_point(recipe: Recipe, point: Point) -> Recipe:
    """The recipe with a point's values in their fields, and without axes.

    Raises:
        ValueError: a field does not exist, or does not take the value; the message names it.
    """
    if not point.coordinates():
        return recipe
    tree = recipe.model_dump()
    tree["grid"] |= {"axes": {}, "variants": {}, "exclude": []}
    fields = recipe.grid.variants.get(point.variant or "", {}) | dict(point.values)
    for path, value in fields.items():
        _set(tree, path, value)
    try:
        changed = type(recipe).model_validate(tree)
    except ValidationError as error:
        raise ValueError(_explained(fields, error)) from None
    if problems := changed.inconsistencies():
        loc, text = problems[0]
        raise ValueError(f"at {_written(fields)}: {'.'.join(map(str, loc))}: {text}")
    return changed


def problems_of_axes(recipe: Recipe) -> list[tuple[FieldPath, str]]:
    """Axes, variants and exclusions that cannot be used: (field path, message)."""
    grid = recipe.grid
    problems = [
        (place, text)
        for place, path in _paths(grid)
        if (text := _unusable(path)) is not None
    ]  # fmt: skip
    problems += [
        (("grid", "axes", path), "gives one of its values twice")
        for path, values in grid.axes.items()
        if any(value in values[:n] for n, value in enumerate(values))
    ]
    for variant, fields in grid.variants.items():
        for path in fields:
            if clash := next((axis for axis in grid.axes if _overlap(axis, path)), None):
                problems.append((("grid", "variants", variant, path), f"is also set by the axis {clash}"))
    problems += _unknown_exclusions(recipe)
    return problems or _problems_at_points(recipe)


def _paths(grid: Grid) -> Iterator[tuple[FieldPath, str]]:
    yield from ((("grid", "axes", path), path) for path in grid.axes)
    for variant, fields in grid.variants.items():
        yield from ((("grid", "variants", variant, path), path) for path in fields)


def _unusable(path: str) -> str | None:
    section = path.partition(".")[0]
    if section in SECTIONS:
        return None
    reason = OTHERS.get(section, "changes no result")
    return f"cannot be varied: `{section}` {reason}; axes are fields of {', '.join(SECTIONS)}"


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _unknown_exclusions(recipe: Recipe) -> list[tuple[FieldPath, str]]:
    """Exclusions by an axis, a variant or a value that the grid does not have."""
    grid = recipe.grid
    known: dict[str, list[Any]] = {"model": grid.models, "dataset": grid.datasets, "seed": grid.seeds}
    known |= {VARIANT: list(grid.variants)} if grid.variants else {}
    schedule = recipe.train.schedule
    known |= {END: list(schedule.ends)} if isinstance(schedule, WarmupStableDecay) else {}
    known |= grid.axes
    wrong: list[tuple[FieldPath, str]] = []
    for n, excluded in enumerate(grid.exclude):
        place: FieldPath = ("grid", "exclude", n)
        if not excluded:
            wrong.append((place, f"names nothing: give any of {', '.join(known)}"))
        for name, value in excluded.items():
            if name not in known:
                wrong.append(((*place, name), f"is not an axis of this grid; known: {', '.join(known)}"))
            elif name not in ("model", "dataset") and value not in known[name]:  # those may name what is not in use
                wrong.append(((*place, name), f"{value!r} is not on this axis; it has {known[name]}"))
    return wrong


def _problems_at_points(recipe: Recipe) -> list[tuple[FieldPath, str]]:
    grid = recipe.grid
    if not (grid.axes or grid.variants):
        return []
    if grid.point_count <= MOST_CHECKED:
        checked = list(points(grid))
    else:
        checked = [Point(None, ((path, value),)) for path, values in grid.axes.items() for value in values]
        checked += [Point(variant) for variant in grid.variants]
    for point in checked:
        try:
            at_point(recipe, point)
        except ValueError as error:
            return [(_place(grid, point, str(error)), str(error))]
    return []


def _place(grid: Grid, point: Point, text: str) -> FieldPath:
    """The axis or variant that an error speaks of."""
    for path, _ in point.values:
        if path in text:
            return ("grid", "axes", path)
    return ("grid", "variants", point.variant) if point.variant else ("grid", "axes")


def _set(tree: dict[str, Any], path: str, value: JsonValue) -> None:
    *parents, last = path.split(".")
    holder: Any = tree
    for depth, key in enumerate(parents):
        if isinstance(holder, Mapping) and isinstance(holder.get(key), dict):
            holder = holder[key]
        else:
            raise ValueError(f"{path}: {'.'.join(parents[: depth + 1])} is not a section of this recipe")
    holder[last] = value


def _explained(fields: Mapping[str, JsonValue], error: ValidationError) -> str:
    """The first of pydantic's errors, by the field that was set."""
    first = error.errors()[0]
    loc = ".".join(str(key) for key in first["loc"])
    field = next((path for path in fields if loc.startswith(path) or path.startswith(loc)), None)
    if field is None:
        return f"at {_written(fields)}: {loc}: {first['msg']}"
    unknown = first["type"] == "extra_forbidden"
    return f"{field}: is not a field of a recipe" if unknown else f"{field}: {first['msg']} (got {fields[field]!r})"


def _written(fields: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{path}={value}" for path, value in fields.items())
