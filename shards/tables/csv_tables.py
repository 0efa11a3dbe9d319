"""Read CSV tables as columns of text, with the line number of every row, and build text columns from others."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import string
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import open_file
from shards.tables.mapped_rows import PART_ROWS

if TYPE_CHECKING:
    import pandas as pd


def read_csv(location: str, required: Iterable[str] = (), separator: str = ",") -> pd.DataFrame:
    """Read a complete table: the parts of `csv_parts` in one."""
    import pandas as pd

    return pd.concat(csv_parts(location, required, separator), ignore_index=True)


def csv_parts(location: str, required: Iterable[str] = (), separator: str = ",") -> Iterator[pd.DataFrame]:
    """Read a table (`.gz` too) as text, PART_ROWS rows at a time; at least one part, which may have no rows.

    `origin` is the file and line of each row; blank lines are skipped. UTF-8 with or without a byte-order mark, any
    line endings. Raises LayoutError for a file that is absent or not text, a repeated or absent column, or a row with
    too few or too many cells (an unquoted comma in a SMILES string is the usual cause).
    """
    try:
        with open_file(location) as file:
            raw = gzip.GzipFile(fileobj=file) if location.endswith(".gz") else file
            with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
                rows = _rows(location, text, separator)
                _, columns = next(rows, (1, []))
                _check_columns(location, columns, required)
                yield from _parts(location, columns, rows)
    except FileNotFoundError:
        raise LayoutError(f"{location}: no such table") from None
    except (OSError, EOFError, zlib.error) as error:  # the last two are from a damaged .gz
        raise LayoutError(f"{location}: not a readable table: {error}") from error


def _rows(location: str, text: io.TextIOBase, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of its last line."""
    reader = csv.reader(text, delimiter=separator, strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except UnicodeDecodeError as error:
        raise LayoutError(f"{location}, after line {reader.line_num}: not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise LayoutError(f"{location}, line {reader.line_num}: not a readable table: {error}") from error


def _check_columns(location: str, columns: Sequence[str], required: Iterable[str]) -> None:
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise LayoutError(f"{location}, line 1: the column name {repeated[0]!r} is repeated")
    require_columns(location, columns, required)


def _parts(location: str, columns: Sequence[str], rows: Iterator[tuple[int, list[str]]]) -> Iterator[pd.DataFrame]:
    import pandas as pd

    batch = list(islice(rows, PART_ROWS))
    while True:
        for line, cells in batch:
            if len(cells) != len(columns):
                raise LayoutError(
                    f"{location}, line {line}: {len(cells)} cells, but the header has {len(columns)} columns"
                )
        cells_of = zip(*(cells for _, cells in batch), strict=True) if batch else ([] for _ in columns)
        part = {name: pd.Series(list(cells), dtype=str) for name, cells in zip(columns, cells_of, strict=True)}
        yield pd.DataFrame({**part, "origin": pd.Series([f"{location}, line {line}" for line, _ in batch], dtype=str)})
        if not (batch := list(islice(rows, PART_ROWS))):
            return


def require_columns(location: str, present: Sequence[str], required: Iterable[str]) -> None:
    """Raise LayoutError for the first required column that is absent, with the nearest present one."""
    for name in required:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise LayoutError(f"{location}, line 1: no column {name!r}{hint}; the columns are {', '.join(present)}")


def require_cells(table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise LayoutError for the first empty cell in the named columns."""
    for name in columns:
        empty = table[name].str.strip() == ""
        if empty.any():
            raise LayoutError(f"{table.loc[empty, 'origin'].iloc[0]}: column {name!r} is empty")


def integers(table: pd.DataFrame, column: str) -> pd.Series[int]:
    """A column of text as integers; LayoutError for the first table cell that is not one."""
    text = table[column].str.strip()
    wrong = ~text.str.fullmatch("[0-9]{1,9}").astype(bool)
    if wrong.any():
        first = table.loc[wrong, ["origin", column]].iloc[0]
        raise LayoutError(f"{first['origin']}: {column} {first[column]!r} is not a whole number")
    return text.astype("int64")


def fields_of(pattern: str) -> set[str]:
    """The columns that a pattern such as `{plate}/{well}_w{channel}.png` names; LayoutError if it is malformed."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(pattern) if field is not None}
    except ValueError as error:
        raise LayoutError(f"pattern {pattern!r}: {error}") from error
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
            text = [format(cell, form) for cell in cells] if form else cells.astype(str)
            out = out + pd.Series(text, index=table.index, dtype=str)
    return out


@dataclass(frozen=True)
class Pattern:
    """Locations that are built from other columns, and constants, on request."""

    text: str
    constants: Mapping[str, str]

    def locations(self, wells: pd.DataFrame) -> pd.Series[str]:
        """The location of every row's image."""
        return filled(self.text, wells, self.constants)


def parse_pairs(text: str, option: str) -> dict[str, str]:
    """Read an option such as `ch1=Mito,ch2=AGP`."""
    pairs = [item.partition("=") for item in text.split(",")]
    if not all(left.strip() and right.strip() for left, _, right in pairs):
        raise LayoutError(f"option {option}: expected name=value,name=value, got {text!r}")
    return {left.strip(): right.strip() for left, _, right in pairs}
