"""The rows of a text table as columns of text, with the line of each row.

Arrow reads what is regular. What is not (rows that are too short or too long, blanks between a separator and a quote,
tables in Markdown) is read record by record.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from analysis.tables.dialect import UNNAMED, Dialect
from analysis.tables.errors import TableError

RULE = re.compile(r"\s*:?-+:?\s*")
"""A cell of the line below a header in Markdown."""
MAX_CELL = 1 << 27
BLOCK_BYTES = 1 << 22
"""Read at a time; a table with a longer row is read record by record."""


@dataclass(frozen=True)
class TextColumns:
    """Columns of text, blank where a row has none."""

    names: tuple[str, ...]
    columns: tuple[pa.ChunkedArray, ...]  # strings, (rows,) each
    lines: NDArray[np.int64]  # (rows,) 1-based
    short: tuple[int, ...] = ()  # rows with fewer fields than the header


def read_rows(data: bytes, dialect: Dialect) -> TextColumns:
    """The rows below the header.

    Raises:
        TableError: a row has more fields than the header, or a quoted cell has no end; with its line.
    """
    spaced = dialect.separator.encode() + b' "'
    regular = dialect.separator != "|" and (b" " not in data or spaced not in data)
    columns = _with_arrow(data, dialect) if regular else None
    return _without_blank_columns(columns or _with_records(data[dialect.begin :].decode(), dialect))


def _with_arrow(data: bytes, dialect: Dialect) -> TextColumns | None:
    """The columns, or None where a row is not like the header."""
    body = memoryview(data)[dialect.begin :]
    if not len(body):
        return TextColumns(
            dialect.names, (pa.chunked_array([], pa.string()),) * len(dialect.names), np.empty(0, np.int64)
        )
    names = [str(number) for number in range(len(dialect.names))]
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(body),
            arrow_csv.ReadOptions(column_names=names, block_size=min(len(body) + 1, BLOCK_BYTES)),
            arrow_csv.ParseOptions(delimiter=dialect.separator, newlines_in_values=True),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, check_utf8=False
            ),  # `text_bytes` has checked it
        )
    except pa.ArrowInvalid:
        return None
    lines = _lines(data, table.num_rows, dialect)
    return None if lines is None else TextColumns(dialect.names, tuple(table.columns), lines)


def _lines(data: bytes, rows: int, dialect: Dialect) -> NDArray[np.int64] | None:
    """The line of each row where every line is a row, else None."""
    ends = data.count(b"\n", dialect.begin) or data.count(b"\r", dialect.begin)
    complete = ends + (not data.endswith((b"\n", b"\r")))
    return np.arange(rows, dtype=np.int64) + dialect.line if complete == rows else None


def _with_records(text: str, dialect: Dialect) -> TextColumns:
    names, records, lines = dialect.names, list[list[str]](), list[int]()
    for line, record in _records(text, dialect):
        records.append(record)
        lines.append(line)
    width = len(names)
    if (
        records
        and all(len(record) == width + 1 for record in records)
        and any(record[-1].strip() for record in records)
    ):
        names, width = (f"{UNNAMED}row", *names), width + 1  # R does not name its column of row names
    for line, record in zip(lines, records, strict=True):
        if any(cell.strip() for cell in record[width:]):
            raise TableError(f"line {line}: {len(record)} fields, the header has {width}")
    short = tuple(row for row, record in enumerate(records) if len(record) < width)
    columns = (
        pa.chunked_array([[record[n] if n < len(record) else "" for record in records]], pa.string())
        for n in range(width)
    )
    return TextColumns(names, tuple(columns), np.array(lines, np.int64), short)


def _records(text: str, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """The line at which each record begins, and its cells; without blank lines and the rules of Markdown."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.separator,
        skipinitialspace=dialect.separator != "\t",
        strict=True,
    )
    before = csv.field_size_limit(MAX_CELL)
    end = 0
    try:
        for record in reader:
            begin, end = end, reader.line_num
            is_rule = dialect.separator == "|" and all(RULE.fullmatch(cell) or not cell.strip() for cell in record)
            if any(cell.strip() for cell in record) and not is_rule:
                yield dialect.line + begin, record
    except csv.Error as error:
        raise TableError(f"line {dialect.line + end}: {error}") from None
    finally:
        csv.field_size_limit(before)


def _without_blank_columns(table: TextColumns) -> TextColumns:
    """Leave out columns with neither a name nor a value: what a separator at the end of each line makes."""
    kept = [n for n, name in enumerate(table.names) if not name.startswith(UNNAMED) or _has_text(table.columns[n])]
    names, columns = (tuple(values[n] for n in kept) for values in (table.names, table.columns))
    return replace(table, names=names, columns=columns)


def _has_text(column: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.not_equal(pc.utf8_trim_whitespace(column), "")).as_py())
