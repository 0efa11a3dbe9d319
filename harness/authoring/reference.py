"""The page of all fields of a recipe, docs/recipe.md, from the schema: `python -m harness.sweep --fields`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from harness.recipe.errors import BOUNDS
from harness.recipe.load import json_schema

Node = dict[str, Any]  # of a JSON schema

HEAD = """\
# All fields of a recipe

<!-- Written by `python -m harness.sweep --fields > docs/recipe.md`; a test compares it with the schema. -->

Every field with its values, its default and what it means. A field without a default is required. Whatever else a file
says is refused, with the nearest field's name. `python -m harness.sweep init SHARDS` writes a first recipe,
`check RECIPE` looks for mistakes in one, and [architecture.md](architecture.md#recipes) explains profiles, overrides
and axes. "By name" means one value for all, or one for each: `train.batch: {rxrx3: 4096, rpi_52m: 16384}`.
"""
TYPES = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
KINDS = ("kind", "name")  # fields whose fixed value says which of several sections is meant


def page() -> str:
    """The page as markdown."""
    schema = json_schema()
    return "\n".join([HEAD, *_section(schema, "", schema, "A complete study.", {})])


def _section(node: Node, path: str, schema: Node, meaning: str, written: dict[str, str]) -> Iterator[str]:
    """A heading and a table for the fields at a dotted path, then those of the sections inside.

    Args:
        written: where each section's table already is, by its title.
    """
    yield f"## `{path}`\n" if path else "## The recipe\n"
    if node.get("title") in written:
        yield f"As `{written[node['title']]}`.\n"
        return
    written[str(node.get("title"))] = path
    yield f"{meaning}\n"
    yield "| field | values | default | meaning |\n|---|---|---|---|"
    inner: list[tuple[str, Node, str]] = []
    for name, field in node["properties"].items():
        yield _row(name, field, schema, is_required=name in node.get("required", ()))
        inner += [(f"{path}.{name}".lstrip(".") + where, found, text) for where, found, text in _inside(field, schema)]
    yield ""
    for place, section, text in inner:
        yield from _section(section, place, schema, text, written)


def _row(name: str, field: Node, schema: Node, *, is_required: bool) -> str:
    values = _values(field, schema)
    default = "" if is_required or "default" not in field else _default(field, schema)
    text = field.get("description", "says which section this is" if name in KINDS else "")
    return f"| `{name}` | {values} | {default} | {_cell(text)} |"


def _cell(text: str) -> str:
    """A text inside of a table's cell, on one line."""
    return " ".join(text.split()).replace("|", "\\|")


def _default(field: Node, schema: Node) -> str:
    if next(_inside(field, schema), None) and isinstance(field["default"], dict):
        return "its fields'"
    return _cell(f"`{json.dumps(field['default'], ensure_ascii=False)}`")


def _inside(field: Node, schema: Node) -> Iterator[tuple[str, Node, str]]:
    """The sections that a field holds: what follows the field's path, their schema, and their meaning."""
    if "$ref" in field:
        section = schema["$defs"][field["$ref"].rsplit("/", 1)[1]]
        if "properties" in section:
            yield _kind(section), section, _first(section.get("description") or field.get("description", ""))
    for option in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from _inside(option, schema)
    for where, held in ((".NAME", _by_name(field)), (".0", field.get("items"))):
        for end, section, text in _inside(held, schema) if held else ():
            yield where + end, section, text


def _kind(section: Node) -> str:
    """What tells a section of several from the others: « (kind: mu_net)»"""
    fixed = ((name, section["properties"].get(name, {}).get("const")) for name in KINDS)
    return next((f" ({name}: {value})" for name, value in fixed if value), "")


def _first(description: str) -> str:
    """The first paragraph of a docstring."""
    return _cell(description.split("\n\n")[0])


def _by_name(node: Node) -> Node | None:
    return next(iter(node.get("patternProperties", {}).values()), None)


def _values(field: Node, schema: Node) -> str:
    """What may be written: types with their bounds, choices, sections."""
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    texts = list(dict.fromkeys(_value(option, schema) for option in options))
    by_name = [text for text in texts if text.endswith(" by name")]
    if by_name and len(texts) == 2:
        texts = [f"{texts[0]}, or by name"]
    return " or ".join(texts) + (" or `null`" if len(options) < len(field.get("anyOf", [field])) else "")


def _literal(value: object) -> str:
    """As it is written in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _number(bound: float) -> str:
    return f"{int(bound):,}" if float(bound).is_integer() else f"{bound:,}"


def _value(option: Node, schema: Node) -> str:
    if "const" in option:
        return f"`{_literal(option['const'])}`"
    if "enum" in option:
        return ", ".join(f"`{_literal(value)}`" for value in option["enum"])
    if "$ref" in option or "oneOf" in option:
        return "section"
    if held := _by_name(option):
        return f"{_values(held, schema)} by name"
    if "prefixItems" in option:
        return f"{len(option['prefixItems'])} of: {_values(option['prefixItems'][0], schema)}"
    if "items" in option:
        return f"list of: {_values(option['items'], schema)}"
    kind = option.get("type")
    if kind == "object":
        held = option.get("additionalProperties")
        return (
            f"{_values(held, schema)} by name"
            if isinstance(held, dict) and held.get("type") in TYPES
            else "values by name"
        )
    if kind == "string" and option.get("format") == "path":
        return "path"
    kinds = [TYPES[one] for one in kind] if isinstance(kind, list) else [TYPES.get(str(kind), "any value")]
    bounds = ", ".join(f"{word} {_number(option[name])}" for name, word in BOUNDS.items() if name in option)
    return " or ".join(kinds) + (f" {bounds}" if bounds else "")
