"""Known relationships of genes from a file, checked, with counts of what was left out."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _csv import Reader

HEADER = ["entity1", "entity2"]


class PairFileError(ValueError):
    """A malformed relationship list; the message names file and line."""


@dataclass(frozen=True)
class Pairs:
    """Known relationships of one source: unordered, de-duplicated, non-self pairs, and counts of what was left out."""

    source: str
    pairs: tuple[tuple[str, str], ...]  # each in alphabetical order, all sorted
    rows: int
    duplicates: int
    self_pairs: int
    empty: int


def read_pairs(path: str | Path, source: str | None = None) -> Pairs:
    """Read a relationship list: CSV with the header entity1,entity2, one pair of gene symbols per row.

    Pairs are unordered: A,B and B,A are the same. Duplicates, self pairs and rows with an empty symbol are counted and
    left out. The source is named after the file's stem by default.

    Raises:
        PairFileError: if the file cannot be read, the header or a row is malformed, or no pair is left.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _rows(csv.reader(file), path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PairFileError(f"{path}: relationship list cannot be read: {error}") from error
    complete = [row for row in rows if all(row)]
    proper = [row for row in complete if row[0] != row[1]]
    unique = sorted(set(proper))
    if not unique:
        raise PairFileError(f"{path}: none of its {len(rows)} rows is a pair of two different genes")
    return Pairs(
        source=source or path.stem,
        pairs=tuple(unique),
        rows=len(rows),
        duplicates=len(proper) - len(unique),
        self_pairs=len(complete) - len(proper),
        empty=len(rows) - len(complete),
    )


def _rows(reader: Reader, path: Path) -> list[tuple[str, str]]:
    header = [field.strip() for field in next(reader, [])]
    if header != HEADER:
        raise PairFileError(f"{path}, line 1: the header is {','.join(header)!r}, it must be 'entity1,entity2'")
    return [_parse_row(row, path, reader.line_num) for row in reader if row]


def _parse_row(row: list[str], path: Path, line: int) -> tuple[str, str]:
    if len(row) != len(HEADER):
        raise PairFileError(f"{path}, line {line}: {len(row)} fields, a pair has {len(HEADER)}")
    first, second = sorted(field.strip() for field in row)
    return first, second
