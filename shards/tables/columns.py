"""Columns of a table of text: which must be there, numbers in them, and text that is built from others."""

from __future__ import annotations

import difflib
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shards.errors import LayoutError

if TYPE_CHECKING:
    import pandas as pd

ORIGIN = "source:line"
"""Column of every table that is read: the file and line of each row, for error messages."""
WRITTEN_WELL = "source:well"
"""The name of a well as the table writes it, where names of images are built from it."""
FAULT = "source:fault"
"""Why a row cannot be built; empty for most."""
UNDESCRIBED = "source:undescribed"
"""Why a row has no treatment, where others have one; empty for most."""
INTERNAL = frozenset({ORIGIN, WRITTEN_WELL, FAULT, UNDESCRIBED})
"""Columns that are ours: no table may have them."""

MAX_COLUMNS = 10_000
MAX_NAMES = 30
"""Columns that a message lists."""


def check_columns(location: str, columns: Sequence[str], required: Iterable[str] = ()) -> None:
    """Raise LayoutError for too many columns, a repeated or reserved name, or a required column that is absent."""
    if len(columns) > MAX_COLUMNS:
        raise LayoutError(f"{location}, line 1: {len(columns)} columns; {MAX_COLUMNS} are the limit")
    repeated = sorted(name for name, count in Counter(columns).items() if count > 1)
    if repeated:
        raise LayoutError(f"{location}, line 1: the column name {repeated[0]!r} is repeated")
    if reserved := sorted(INTERNAL.intersection(columns)):
        raise LayoutError(f"{location}, line 1: column {reserved[0]!r} is reserved: rename it")
    require_columns(location, columns, required)


def require_columns(location: str, present: Sequence[str], required: Iterable[str]) -> None:
    """Raise LayoutError for the first required column that is absent, with the nearest present one."""
    present = [name for name in present if name not in INTERNAL]
    for name in required:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            listed = ", ".join([*present[:MAX_NAMES], *(["..."] if len(present) > MAX_NAMES else [])])
            raise LayoutError(f"{location}, line 1: no column {name!r}{hint}; the columns are {listed}")


def require_cells(table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise LayoutError for the first empty cell in the named columns."""
    for name in columns:
        empty = table[name].str.strip() == ""
        if empty.any():
            raise LayoutError(f"{table.loc[empty, ORIGIN].iloc[0]}: column {name!r} is empty")


def integers(table: pd.DataFrame, column: str) -> pd.Series[int]:
    """A column of text as integers (`2` or `2.0`); LayoutError for the first table cell that is not one."""
    text = table[column].str.strip()
    wrong = ~text.str.fullmatch(r"[0-9]{1,9}(\.0*)?").astype(bool)
    if wrong.any():
        first = table.loc[wrong, [ORIGIN, column]].iloc[0]
        raise LayoutError(f"{first[ORIGIN]}: {column} {first[column]!r} is not a whole number")
    return text.str.replace(r"\..*", "", regex=True).astype("int64")


def fields_of(pattern: str) -> set[str]:
    """The columns that a pattern such as `{plate}/{well}_w{channel}.png` names; LayoutError if it is malformed."""
    try:
        parsed = [(field, form) for _, field, form, _ in string.Formatter().parse(pattern) if field is not None]
    except ValueError as error:
        raise LayoutError(f"pattern {pattern!r}: {error}") from error
    if wide := [form for _, form in parsed if form and re.search("[0-9]{3}", form)]:
        raise LayoutError(f"pattern {pattern!r}: a width has at most two digits, got {wide[0]!r}")
    fields = {field for field, _ in parsed}
    if strange := sorted(field for field in fields if not field.isidentifier()):
        raise LayoutError(f"pattern {pattern!r}: {{{strange[0]}}} is not the name of a column")
    return fields


def filled(pattern: str, table: pd.DataFrame, constants: Mapping[str, str]) -> pd.Series[str]:
    """Fill a pattern in for every row, column by column: fields are columns, or constants for all rows."""
    import pandas as pd

    out = pd.Series("", index=table.index, dtype=str)
    for literal, field, form, _ in string.Formatter().parse(pattern):
        out = out + literal
        if field is not None and field in constants:
            out = out + constants[field]
        elif field is not None:
            cells = table[field]
            try:
                text = [format(cell, form) for cell in cells] if form else cells.astype(str)
            except ValueError as error:
                raise LayoutError(f"pattern {pattern!r}: {{{field}:{form}}}: {error}") from None
            out = out + pd.Series(text, index=table.index, dtype=str)
    return out


@dataclass(frozen=True)
class Pattern:
    """Locations that are built from other columns, and constants, on request."""

    text: str
    constants: Mapping[str, str]

    @property
    def fields(self) -> set[str]:
        """The columns and constants that it names."""
        return fields_of(self.text)

    def locations(self, wells: pd.DataFrame) -> pd.Series[str]:
        """The location of every row's image."""
        return filled(self.text, wells, self.constants)


def parse_pairs(text: str, option: str) -> dict[str, str]:
    """Read an option such as `ch1=Mito,ch2=AGP`."""
    pairs = [item.partition("=") for item in text.split(",")]
    if not all(left.strip() and right.strip() for left, _, right in pairs):
        raise LayoutError(f"option {option}: expected name=value,name=value, got {text!r}")
    names = Counter(left.strip() for left, _, _ in pairs)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise LayoutError(f"option {option}: {repeated[0]!r} is named twice in {text!r}")
    return {left.strip(): right.strip() for left, _, right in pairs}
