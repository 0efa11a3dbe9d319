"""Read CSV tables as columns of text, with the line number of every row, and build text columns from others."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import os
import re
import string
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import open_file, state
from shards.images.regular_files import FileState
from shards.tables.mapped_rows import PART_ROWS

if TYPE_CHECKING:
    import pandas as pd

MAX_COLUMNS = 10_000
MAX_ROW = 1 << 20
"""Characters of a row, or of the header. A cell has at most 131,072, the limit of the module `csv`."""
MAX_PART = 1 << 26
"""Characters of the rows that are in memory at a time."""
MAX_UNSTATED = 1 << 30
"""Characters of a table whose size is not known before it is read, and of a small one that is compressed."""
MAX_RATIO = 100
"""Characters per byte of a larger compressed table; repetitive ones have 20 to 60."""
MAX_IN_MEMORY = 1 << 31
"""Characters of the cells of a table that is read in one."""
MAX_NAMES = 30
"""Columns that a message lists."""


def read_csv(location: str, required: Iterable[str] = (), separator: str = ",") -> pd.DataFrame:
    """Read a complete table: the parts of `csv_parts` in one; LayoutError for more than MAX_IN_MEMORY."""
    import pandas as pd

    parts, left = list[pd.DataFrame](), MAX_IN_MEMORY
    for part in csv_parts(location, required, separator):
        left -= sum(int(part[name].str.len().sum()) for name in part)
        if left < 0:
            raise LayoutError(f"{location}: more than {MAX_IN_MEMORY} characters; split the table")
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def csv_parts(location: str, required: Iterable[str] = (), separator: str = ",") -> Iterator[pd.DataFrame]:
    """Read a table (`.gz` too) as text, PART_ROWS rows at a time; at least one part, which may have no rows.

    `origin` is the file and line of each row; blank lines are skipped. UTF-8 with or without a byte-order mark, any
    line endings. Raises LayoutError for a file that is absent, not regular or not text, that changes while it is read
    or exceeds the limits above, for a repeated or absent column, or for a row with too few or too many cells (an
    unquoted comma in a SMILES string is the usual cause).
    """
    before = state(location)
    try:
        with open_file(location) as file:
            raw = gzip.GzipFile(fileobj=file) if location.endswith(".gz") else file
            with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
                rows = _rows(location, _Lines(text, _most(location, file)), separator)
                _, columns = next(rows, (1, []))
                _check_columns(location, columns, required)
                yield from _parts(location, columns, rows)
        _check_same(location, before)
    except LayoutError:
        _check_same(location, before)  # otherwise the fault may not be in the table
        raise
    except FileNotFoundError:
        raise LayoutError(f"{location}: no such table") from None
    except (OSError, EOFError, zlib.error) as error:  # the last two are from a damaged .gz
        raise LayoutError(f"{location}: not a readable table: {error}") from error


def _check_same(location: str, before: FileState | None) -> None:
    if state(location) != before:
        raise LayoutError(f"{location}: it changed while it was being read: run the same command again") from None


def _most(location: str, file: IO[bytes]) -> int:
    """The most characters that the text of an open table may have."""
    size = os.fstat(file.fileno()).st_size if state(location) else getattr(file, "size", None)
    if size is None:
        return MAX_UNSTATED
    return max(MAX_UNSTATED, MAX_RATIO * int(size)) if location.endswith(".gz") else int(size)


class _Lines(Iterator[str]):
    """The lines of a text; ValueError for one that is too long, for too many in a row or in all, or for binary data."""

    def __init__(self, text: io.TextIOBase, most: int) -> None:
        self._text = text
        self._most = most
        self._read = 0
        self.row = 0  # characters since the last complete row, which the reader of rows sets back

    def __next__(self) -> str:
        line = self._text.readline(MAX_ROW + 1)
        self.row += len(line)
        self._read += len(line)
        if self.row > MAX_ROW:
            raise ValueError(f"a row of more than {MAX_ROW} characters")
        if self._read > self._most:
            raise ValueError(f"more than the {self._most} characters that a file of its size may hold")
        if "\0" in line:
            raise ValueError("a NUL character: this is not a text")
        if not line:
            raise StopIteration
        return line


def _rows(location: str, lines: _Lines, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of its last line."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for row in reader:
            lines.row = 0
            if row:
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise LayoutError(f"{location}, after line {reader.line_num}: not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise LayoutError(f"{location}, line {reader.line_num}: not a readable table: {error}") from error
    except ValueError as error:
        raise LayoutError(f"{location}, line {reader.line_num + 1}: not a readable table: {error}") from None


def _check_columns(location: str, columns: Sequence[str], required: Iterable[str]) -> None:
    if len(columns) > MAX_COLUMNS:
        raise LayoutError(f"{location}, line 1: {len(columns)} columns; {MAX_COLUMNS} are the limit")
    repeated = sorted(name for name, count in Counter(columns).items() if count > 1)
    if repeated:
        raise LayoutError(f"{location}, line 1: the column name {repeated[0]!r} is repeated")
    require_columns(location, columns, required)


def _parts(location: str, columns: Sequence[str], rows: Iterator[tuple[int, list[str]]]) -> Iterator[pd.DataFrame]:
    import pandas as pd

    for batch in _batches(rows):
        for line, cells in batch:
            if len(cells) != len(columns):
                raise LayoutError(
                    f"{location}, line {line}: {len(cells)} cells, but the header has {len(columns)} columns"
                )
        cells_of = zip(*(cells for _, cells in batch), strict=True) if batch else ([] for _ in columns)
        part = {name: pd.Series(list(cells), dtype=str) for name, cells in zip(columns, cells_of, strict=True)}
        yield pd.DataFrame({**part, "origin": pd.Series([f"{location}, line {line}" for line, _ in batch], dtype=str)})


def _batches(rows: Iterator[tuple[int, list[str]]]) -> Iterator[list[tuple[int, list[str]]]]:
    """At most PART_ROWS rows at a time, and fewer if they are long; at least one batch, which may be empty."""
    batch, size, some = list[tuple[int, list[str]]](), 0, False
    for row in rows:
        batch.append(row)
        size += sum(map(len, row[1]))
        if len(batch) == PART_ROWS or size >= MAX_PART:
            yield batch
            batch, size, some = [], 0, True
    if batch or not some:
        yield batch


def require_columns(location: str, present: Sequence[str], required: Iterable[str]) -> None:
    """Raise LayoutError for the first required column that is absent, with the nearest present one."""
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

    def locations(self, wells: pd.DataFrame) -> pd.Series[str]:
        """The location of every row's image."""
        return filled(self.text, wells, self.constants)


def parse_pairs(text: str, option: str) -> dict[str, str]:
    """Read an option such as `ch1=Mito,ch2=AGP`."""
    pairs = [item.partition("=") for item in text.split(",")]
    if not all(left.strip() and right.strip() for left, _, right in pairs):
        raise LayoutError(f"option {option}: expected name=value,name=value, got {text!r}")
    return {left.strip(): right.strip() for left, _, right in pairs}
