"""A plan in 100 columns: cells under the name of their model, and what matters most of each."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from analysis.figures.text_table import GAP, text_table

COLUMNS = 100
INDENT = "  "
LEFT = ("cell", "engine")  # columns aligned to the left
OPTIONAL = ("crops/GPU", "net%", "crops/s·node", "engine", "steps", "GB", "embed")  # left out in this order to fit


def narrow_table(rows: Sequence[Mapping[str, str]], models: Sequence[str]) -> str:
    """Rows below their model, without the columns that do not fit and those that are empty.

    Args:
        rows: the text of each cell by its head, first `cell`, its id.
        models: of each row.
    """
    if not rows:
        return ""
    first = {model: number for number, model in enumerate(dict.fromkeys(models))}
    order = sorted(range(len(rows)), key=lambda number: first[models[number]])
    shown = [_below(rows[number], models[number]) for number in order]
    widths = {name: max(len(name), *(len(row[name]) for row in shown)) for name in shown[0]}
    heads = [name for name in widths if any(row[name].strip(" 0.") for row in shown)]
    for optional in OPTIONAL:
        if sum(widths[name] + len(GAP) for name in heads) - len(GAP) > COLUMNS:
            heads = [name for name in heads if name != optional]
    head, *lines = text_table([{name: row[name] for name in heads} for row in shown], LEFT).split("\n")
    grouped = groupby(zip((models[number] for number in order), lines, strict=True), key=lambda pair: pair[0])
    return "\n".join([head, *(line for model, below in grouped for line in (model, *(text for _, text in below)))])


def folded(lines: Iterable[str]) -> list[str]:
    """The lines, where one is longer than `COLUMNS` as several, the later ones indented."""
    return [part for line in lines for text in line.split("\n") for part in _folded(text)]


def _folded(line: str) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line, COLUMNS, subsequent_indent=indent + INDENT, break_long_words=False, break_on_hyphens=False
    ) or [""]


def _below(row: Mapping[str, str], model: str) -> dict[str, str]:
    """The row with the rest of its cell's id, indented: the beginning is its model."""
    return {**row, "cell": INDENT + row["cell"].removeprefix(f"{model}-")}
