"""One reader of tables for all commands: CSV, TSV and the like, compressed or not, and Parquet.

Nothing is guessed about the values here: text stays as it is written, so that `NA` and `001` are names. `parse_numbers`
and `names` read columns as what they are wanted for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analysis.arrays import Floats, Names
from analysis.tables.dialect import dialect_of
from analysis.tables.errors import TableError
from analysis.tables.list_columns import of_text
from analysis.tables.names import names_of
from analysis.tables.parquet_columns import parquet_columns, plain
from analysis.tables.parse_numbers import Hint, Words, checked, hint_of, parse_numbers
from analysis.tables.text_bytes import is_parquet, text_bytes
from analysis.tables.text_rows import read_rows


@dataclass(frozen=True)
class Table:
    """A table that was read: its columns, and where its rows are in the file."""

    source: str
    names: tuple[str, ...]
    columns: tuple[pa.ChunkedArray, ...]  # (rows,) each: strings, whole numbers, float64, booleans or lists of numbers
    lines: NDArray[np.int64] | None = None  # (rows,) of a text table
    separator: str | None = None  # of a text table
    short: tuple[int, ...] = ()  # rows with fewer fields than the header

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each column by its name."""
        return {name: position for position, name in enumerate(self.names)}

    def column(self, name: str) -> pa.ChunkedArray:
        """The column of that name. Raises TableError that lists the names."""
        if name not in self.positions:
            raise TableError(f"{self.source}: no column {name!r}; it has {', '.join(self.names[:20])}")
        return self.columns[self.positions[name]]

    def place(self, row: int) -> str:
        """Where a row (from 0) is in the file: `line 7` of text, `row 6` of Parquet, counted from 1."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    @cached_property
    def hint(self) -> Hint:
        """What commas are in this table."""
        return hint_of(self.columns, self.separator)

    def numbers(self, name: str, words: Words = "refuse", label: str | None = None) -> Floats:
        """A column as numbers (rows,), NaN where a value is missing.

        Raises:
            TableError: no such column, or a value that cannot be read, with its line.
        """
        column = self.column(name)
        numbers = parse_numbers(column)
        if numbers.assumed or numbers.faults:
            numbers = parse_numbers(column, self.hint)
        if numbers.assumed and not self.hint.certain:
            raise TableError(
                f"{self.source}: {label or f'column {name!r}'} holds {numbers.assumed!r}, a fraction or thousands: "
                "nothing in the table says which"
            )
        return checked(numbers, label or f"column {name!r}", lambda row: f"{self.source}, {self.place(row)}", words)

    def vectors(self, name: str) -> Floats:
        """A column of lists as a matrix (rows, elements), NaN where a row has no list.

        Raises:
            TableError: the lists are not of one length; with the first row that differs.
        """
        column = self.column(name).combine_chunks()
        lengths = pc.list_value_length(column)
        known = np.flatnonzero(pc.is_valid(lengths).to_numpy(zero_copy_only=False))
        counts = lengths.drop_null().to_numpy()
        width = int(counts[0]) if len(counts) else 0
        if (counts != width).any():
            row, count = int(known[np.argmax(counts != width)]), int(counts[counts != width][0])
            raise TableError(
                f"{self.source}, {self.place(row)}: {name} has {count} elements, in the rows before {width}"
            )
        values = np.full((len(self), width), np.nan)
        values[known] = _float64(pc.list_flatten(column)).reshape(-1, width)
        return values

    def texts(self, name: str) -> Names:
        """A column as names, (rows,) of str. Raises TableError if there is no such column."""
        return names_of(self.column(name), name)


def read_table(path: str | Path, empty: bool = False) -> Table:
    """The table at a path; compression and separator are found in the content. `empty` allows one without rows.

    Raises:
        TableError: the file cannot be read, is no table, has two columns of one name, or has no rows. The message names
            the file and, where there is one, the line.
    """
    path = Path(path)
    try:
        if is_parquet(path):
            names, columns = parquet_columns(path)
            table = Table(str(path), names, tuple(map(of_text, columns)))
        else:
            data = text_bytes(path)
            dialect = dialect_of(data)
            rows = read_rows(data, dialect)
            columns = tuple(map(of_text, rows.columns))
            table = Table(str(path), rows.names, columns, rows.lines, dialect.separator, rows.short)
    except TableError as error:
        text = str(error)
        raise error if text.startswith(str(path)) else TableError(_located(path, text)) from None
    if not (len(table) or empty):
        raise TableError(f"{path}: has no rows")
    return table


def _float64(values: pa.Array) -> Floats:
    return np.array(pc.fill_null(plain(pa.chunked_array([values])).cast(pa.float64()), float("nan")).to_numpy())


def _located(path: Path, text: str) -> str:
    return f"{path}, {text}" if text.startswith("line ") else f"{path}: {text}"
