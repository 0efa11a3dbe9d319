"""Read CSV tables as columns of text, with the line number of every row.

Compression, encoding and separator are found in the file: by its first bytes, its byte-order mark and its header.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import IO, TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import open_file, state
from shards.images.regular_files import FileState
from shards.tables.columns import ORIGIN, check_columns
from shards.tables.compressed import DAMAGED, decompressed
from shards.tables.mapped_rows import PART_ROWS

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", "\t", ";")
UNDECODED = re.compile("[\udc80-\udcff]")
"""A byte that is not part of UTF-8 text, as `surrogateescape` gives it."""
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MAX_ROW = 1 << 20
"""Characters of a row, or of the header. A cell has at most 131,072, the limit of the module `csv`."""
MAX_PART = 1 << 26
"""Characters of the rows that are in memory at a time."""
MAX_UNSTATED = 1 << 30
"""Characters of a table whose size is not known before it is read, and of a small one that is compressed."""
MAX_RATIO = 100
"""Characters per byte of a larger compressed table; repetitive ones have 20 to 60."""


def csv_parts(location: str, required: Iterable[str] = (), known: Iterable[str] = ()) -> Iterator[pd.DataFrame]:
    """Read a table as text, PART_ROWS rows at a time; at least one part, which may have no rows.

    ORIGIN is the file and line of each row; rows of blank cells are skipped, and blanks around the names of columns.
    UTF-8 with or without a byte-order mark, or UTF-16 with one; any line endings; commas, tabs or semicolons; as it is
    or compressed (`shards.tables.compressed`). Several columns without names, as spreadsheets write them after the
    others, are left out if they are blank. Raises LayoutError for a file that is absent, not regular or not text,
    that changes while it is read or exceeds the limits above, for a repeated, reserved or absent column, or for a row
    with too few or too many cells (an unquoted comma in a SMILES string is the usual cause). The separator is the one
    that finds most columns that are `required` or `known`, as those that a table may have.
    """
    before, required = state(location), tuple(required)
    try:
        with open_file(location) as file:
            yield from _table(location, file, required, {*required, *known})
        _check_same(location, before)
    except LayoutError:
        _check_same(location, before)  # otherwise the fault may not be in the table
        raise
    except FileNotFoundError:
        raise LayoutError(f"{location}: no such table") from None
    except DAMAGED as error:
        raise LayoutError(f"{location}: not a readable table: {error}") from error


def _table(location: str, file: IO[bytes], required: Sequence[str], known: set[str]) -> Iterator[pd.DataFrame]:
    """The parts of an open table."""
    raw, compressed = decompressed(file)
    buffered = io.BufferedReader(raw)  # type: ignore[type-var]
    utf16 = buffered.peek(2).startswith(UTF16)
    encoding, errors = ("utf-16", "strict") if utf16 else ("utf-8-sig", "surrogateescape")
    with io.TextIOWrapper(buffered, encoding, errors, newline="") as text:
        lines = _Lines(text, _most(location, file, compressed))
        rows = _rows(location, lines, known)
        _, header = next(rows, (1, []))
        columns = [name.strip() for name in header]
        if columns.count("") > 1:  # as spreadsheets write columns that were used once
            columns = _without_last_blanks(columns)
            rows = _cut(location, rows, len(columns), len(header))
        check_columns(location, columns, required)
        yield from _parts(location, columns, rows)


def _without_last_blanks(columns: list[str]) -> list[str]:
    while columns and not columns[-1]:
        columns = columns[:-1]
    return columns


def _cut(
    location: str, rows: Iterator[tuple[int, list[str]]], width: int, before: int
) -> Iterator[tuple[int, list[str]]]:
    """Rows of `before` cells without those after the first `width`; LayoutError if one of these is not blank."""
    for line, cells in rows:
        if value := next((cell for cell in cells[width:before] if cell.strip()), None):
            raise LayoutError(f"{location}, line {line}: the value {value!r} is in a column without a name")
        yield line, cells[:width] if len(cells) == before else cells


def _check_same(location: str, before: FileState | None) -> None:
    if state(location) != before:
        raise LayoutError(f"{location}: it changed while it was being read: run the same command again") from None


def _most(location: str, file: IO[bytes], compressed: bool) -> int:
    """The most characters that the text of an open table may have."""
    size = os.fstat(file.fileno()).st_size if state(location) else getattr(file, "size", None)
    if size is None:
        return MAX_UNSTATED
    return max(MAX_UNSTATED, MAX_RATIO * int(size)) if compressed else int(size)


class _Lines(Iterator[str]):
    """The lines of a text; ValueError for one that is too long, for too many in a row or in all, or for binary data."""

    def __init__(self, text: io.TextIOBase, most: int) -> None:
        self._text = text
        self._most = most
        self._read = 0
        self.number = 0  # of the line that was read last, from 1
        self.row = 0  # characters since the last complete row, which the reader of rows sets back

    def __next__(self) -> str:
        line = self._text.readline(MAX_ROW + 1)
        self.number += 1
        self.row += len(line)
        self._read += len(line)
        if self.row > MAX_ROW:
            raise ValueError(f"a row of more than {MAX_ROW} characters")
        if self._read > self._most:
            raise ValueError(f"more than the {self._most} characters that a file of its size may hold")
        if "\0" in line:
            raise ValueError("a NUL character: this is not a text")
        if not line.isascii() and UNDECODED.search(line):
            latin = line.encode("utf-8", "surrogateescape").decode("latin-1").strip()
            raise UnicodeError(f"not UTF-8 text; it may be Latin-1, {latin[:80]!r}: save the table as UTF-8")
        if not line:
            raise StopIteration
        return line


def _rows(location: str, lines: _Lines, known: set[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of its last line; the first is the header."""
    before, number, width = 0, 0, 0  # blank lines before the header; line and columns of the row read last
    try:
        while (header := next(lines, "")) and not header.strip():
            before, lines.row = lines.number, 0
        reader = csv.reader(chain([header], lines), delimiter=_separator(header, known), strict=True)
        for row in reader:
            lines.row, number = 0, before + reader.line_num
            width = width or len(row)
            if any(cell.strip() for cell in row) or len(row) == width == 1:
                yield number, row
    except UnicodeDecodeError as error:
        raise LayoutError(f"{location}, after line {number}: not UTF-16 text: {error}") from error
    except UnicodeError as error:
        raise LayoutError(f"{location}, line {lines.number}: {error}") from None
    except csv.Error as error:
        raise LayoutError(f"{location}, line {before + reader.line_num}: not a readable table: {error}") from error
    except ValueError as error:
        raise LayoutError(f"{location}, line {lines.number}: not a readable table: {error}") from None


def _separator(header: str, known: set[str]) -> str:
    """The separator by which a header has most of the known columns, and then most columns; a comma if in doubt."""

    def columns(separator: str) -> tuple[int, int]:
        try:
            names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
        except csv.Error:  # which reading the table will report
            names = []
        return len(known.intersection(names)), len(names)

    return max(SEPARATORS, key=columns)


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
        yield pd.DataFrame({**part, ORIGIN: pd.Series([f"{location}, line {line}" for line, _ in batch], dtype=str)})


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
