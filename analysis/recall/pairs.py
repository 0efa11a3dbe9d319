"""Known relationships of genes from a file, checked, with counts of what was left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.tables.errors import TableError
from analysis.tables.names import joined_name
from analysis.tables.read_table import read_table

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
    """Read a relationship list: a table with the columns entity1 and entity2, one pair of gene symbols per row.

    Pairs are unordered: A,B and B,A are the same. Duplicates, self pairs and rows with an empty symbol are counted and
    left out. The source is named after the file, without its endings, by default.

    Raises:
        PairFileError: if the file cannot be read, the header or a row is malformed, or no pair is left.
    """
    path = Path(path)
    try:
        table = read_table(path, empty=True)
    except TableError as error:
        raise PairFileError(f"{error} (a relationship list has two columns, entity1 and entity2)") from error
    by_name = {joined_name(name): name for name in table.names}
    if not by_name.keys() >= set(HEADER):
        raise PairFileError(f"{path}, line 1: the header is {','.join(table.names)!r}, it must be 'entity1,entity2'")
    if table.short:
        raise PairFileError(
            f"{path}, {table.place(table.short[0])}: fewer fields than the header, which has {len(table.names)}"
        )
    rows = [tuple(sorted(pair)) for pair in zip(*(table.texts(by_name[name]) for name in HEADER), strict=True)]
    complete = [row for row in rows if all(row)]
    proper = [row for row in complete if row[0] != row[1]]
    unique = sorted(set(proper))
    if not unique:
        raise PairFileError(f"{path}: none of its {len(rows)} rows is a pair of two different genes")
    return Pairs(
        source=source or _stem(path),
        pairs=tuple(unique),
        rows=len(rows),
        duplicates=len(proper) - len(unique),
        self_pairs=len(complete) - len(proper),
        empty=len(rows) - len(complete),
    )


def _stem(path: Path) -> str:
    """CORUM of CORUM.csv and of CORUM.csv.gz."""
    return path.stem.removesuffix(".csv").removesuffix(".tsv").removesuffix(".txt")
