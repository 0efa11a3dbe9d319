"""Errors in a recipe, reported with file, line and field."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.recipe.fields import FieldPath
from harness.recipe.models import ARM
from harness.recipe.schema import Recipe

BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
ARM_WORDS = (ARM, "constrained-", "function-", "lax-or-strict", "json-or-python", "tagged-union", "is-instance")
OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}


class RecipeError(ValueError):
    """A recipe that cannot be used; the message is written for the person who wrote it."""


@dataclass(frozen=True)
class SourceLine:
    """Where a value was written: a line of a file, or an override on the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


SourceLines = dict[FieldPath, SourceLine]


def message(loc: FieldPath, text: str, places: SourceLines, path: Path) -> str:
    """An error's text with the source line and the dotted path of its field."""
    loc = _real(loc)
    known = [loc[:n] for n in range(len(loc), 0, -1) if loc[:n] in places]
    inside = [p for p, place in places.items() if p[: len(loc)] == loc and place.line is None]  # overrides
    place = places[inside[0]] if inside else places[known[0]] if known else SourceLine(str(path))
    return f"{place}: {dotted(loc)}: {text}"


def explain(loc: FieldPath, error: dict[str, Any]) -> str:
    """What one of pydantic's errors means, with the nearest valid name where a name is wrong."""
    if error["type"] == "extra_forbidden":
        fields = _fields_at(loc[:-1])
        nearest = difflib.get_close_matches(str(loc[-1]), fields, n=1, cutoff=0.5)
        return "unknown field; " + (f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(fields)}")
    if error["type"] == "union_tag_invalid":
        given = error["input"]
        field = "kind" if "kind" in given or "name" not in given else "name"
        return f"unknown {field} {shown(given.get(field))}; known: {error['ctx']['expected_tags'].replace(ARM, '')}"
    if error["type"] == "missing":
        return "is required and missing"
    permitted = f"; permitted: {_range_at(loc)}" if error["type"] in OUT_OF_RANGE else ""
    text = f"{_lower_first(error['msg'].removeprefix('Value error, '))} (got {shown(error['input'], 60)})"
    return text + permitted


def shown(value: object, most: int = 120) -> str:
    """A value as text for a message: quoted, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


@cache
def _schema() -> dict[str, Any]:
    return Recipe.model_json_schema()


def _fields_at(loc: FieldPath) -> list[str]:
    """The field names of the section at `loc`."""
    schema = _schema()
    return list(_resolve(_node_at(loc, schema), schema).get("properties", {}))


def _range_at(loc: FieldPath) -> str:
    """The permitted range of the number at `loc`, as in `above 0, at most 1,000`."""
    node = _node_at(loc, _schema())
    options = [option for option in (node, *node.get("anyOf", [])) if BOUNDS.keys() & option.keys()]
    bounds = options[0] if options else {}
    return ", ".join(f"{word} {bounds[name]:,}" for name, word in BOUNDS.items() if name in bounds)


def _node_at(loc: FieldPath, schema: dict[str, Any]) -> dict[str, Any]:
    """The part of the JSON schema that describes the field at `loc`."""
    node = schema
    for key in loc:
        node = _resolve(node, schema)
        if isinstance(key, str) and key.startswith(ARM):
            arms = (_resolve(arm, schema) for arm in node["oneOf"])
            node = next(arm for arm in arms if key.removeprefix(ARM) in _tags(arm))
        if isinstance(key, str) and _is_arm(key):
            continue
        node = next((inner for option in (node, *node.get("anyOf", [])) if (inner := _inner(option, key))), {})
    return node


def _inner(node: dict[str, Any], key: str | int) -> dict[str, Any] | None:
    """The schema of one entry of a section, list, or mapping by name."""
    named: dict[str, Any] | None = node.get("properties", {}).get(key) or node.get("items")
    if named is None and isinstance(key, int):
        named = next(iter(node.get("prefixItems", [])[key:]), None)
    return named or next(iter(node.get("patternProperties", {}).values()), None)


def _tags(arm: dict[str, Any]) -> set[str]:
    """The tags that may mean this arm of a union: a kind, a schedule's name, or whether it is a mapping by name."""
    fields = arm.get("properties", {})
    named = {tag for field in ("kind", "name") if (tag := fields.get(field, {}).get("const"))}
    return {"by_name" if "patternProperties" in arm else "one", *named}


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow `$ref`; of an optional section, take the section."""
    for option in node.get("anyOf", []):
        if "$ref" in option or "oneOf" in option:
            node = option
    reference = node.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[1]] if reference else node


def is_other_arm(error: dict[str, Any]) -> bool:
    """For a field that takes a value or a mapping by name: whether the error is of the alternative not meant."""
    arm = next((k for k in error["loc"] if isinstance(k, str) and _is_arm(k) and not k.startswith(ARM)), None)
    if arm is None:
        return False
    return error["type"] == "dict_type" if "dict[" in arm else isinstance(error["input"], dict)


def _is_arm(key: str) -> bool:
    return "[" in key or key.startswith(ARM_WORDS) or key in {"int", "float"}


def _real(loc: FieldPath) -> FieldPath:
    """`loc` without the names pydantic gives to the arms of a union (`constrained-int`, `dict[...]`) and to keys."""
    return tuple(key for key in loc if not (isinstance(key, str) and _is_arm(key)))


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def dotted(path: FieldPath) -> str:
    """A path as `train.optimiser.betas` or `grid.models.0`; unprintable characters are escaped, long names cut."""
    return ".".join(text if (text := str(key)[:100]).isprintable() else ascii(text) for key in path)
