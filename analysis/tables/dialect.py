"""How a table is written as text: what is above its header, what separates its columns, and what they are called."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from analysis.tables.errors import TableError

SEPARATORS = ("\t", ",", ";", "|")
"""The first of those that explain a table equally well: texts hold commas more often than tabs."""
PREVIEW = 24
"""Records from which the separator is found."""
PREVIEW_BYTES = 1 << 24
"""Of these records, at most; a header of 100,000 columns has some megabytes."""
EXCEL_SEPARATOR = re.compile(r"^\"?sep=(.)\"?\s*$", re.IGNORECASE)
NUMBER = re.compile(r"[-+\u2212]?[.,]?\d")
LEAST_NUMBERED = 3
"""Columns of a group whose names on the second line are 0, 1, 2; two could be values."""
UNNAMED = "Unnamed: "
"""pandas' word for a column without a name, with the column's number."""


@dataclass(frozen=True)
class Dialect:
    """A header that was read, and where the rows begin."""

    separator: str
    names: tuple[str, ...]
    begin: int  # byte at which the first row begins
    line: int  # its line, 1-based


def dialect_of(data: bytes) -> Dialect:
    """The dialect of a text table.

    Above the header may be blank lines, comments that begin with `#`, and Excel's `sep=;`. The separator is the one
    by which the header and the rows below it have the same number of fields. Two lines of names, as pandas and
    CellProfiler write them, become one: `Cells` above `Area` is `Cells_Area`.

    Raises:
        TableError: there is no header, or two columns have one name.
    """
    lines = _lines(data)
    above, named = _above(lines)
    head = lines[above:]
    if not head:
        raise TableError("line 1: the header is '', and nothing is below it")
    separator = named or _separator(head)
    records, ends = _records(head, separator)
    names, used = header_names(records)
    last = above + ends[used - 1]
    return Dialect(separator, tuple(names), len("".join(lines[:last]).encode()) if lines else 0, last + 1)


def header_names(records: Sequence[Sequence[str]]) -> tuple[list[str], int]:
    """Names of the columns, and how many of the first records they take.

    Raises:
        TableError: two columns have one name.
    """
    first = [name.strip() for name in records[0]]
    twice = [name for name, count in Counter(first).items() if count > 1 and name]
    if (twice or _has_merged_cells(records)) and (both := _two_levels(records)) is not None:
        return both
    names = [name or f"{UNNAMED}{number}" for number, name in enumerate(first)]
    check_unique(names)
    return names, 1


def check_unique(names: Sequence[str]) -> None:
    """Raise TableError if two columns have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TableError(f"several columns are called {twice[0]!r}; give each its own name")


def join_levels(levels: Sequence[str]) -> str:
    """One name of a column that has one on each of several levels."""
    return "_".join(level.strip() for level in levels if level.strip())


def _has_merged_cells(records: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names groups of columns, as merged cells of a spreadsheet do: `Cells,,,` above names."""
    upper = [bool(name.strip()) for name in records[0]]
    merged = any(named and not after for named, after in pairwise(upper))
    return merged and upper.count(False) > 1 and len(records) > 1 and all(map(str.strip, records[1]))


def _two_levels(records: Sequence[Sequence[str]]) -> tuple[list[str], int] | None:
    """Names that two lines give together; None where the second holds values or does not tell columns apart."""
    if len(records) < 2 or len(records[0]) != len(records[1]):
        return None
    upper: list[str] = []
    for name in records[0]:
        upper.append(name.strip() or (upper[-1] if upper else ""))
    lower = [name.strip() for name in records[1]]
    if not _are_names(upper, lower):
        return None
    names = [join_levels(pair) for pair in zip(upper, lower, strict=True)]
    index = _index_names(lower, [cell.strip() for cell in records[2]] if len(records) > 2 else [])
    names = [name or f"{UNNAMED}{number}" for number, name in enumerate([*index, *names[len(index) :]])]
    return (names, 3 if index else 2) if len(set(names)) == len(names) else None


def _are_names(upper: Sequence[str], lower: Sequence[str]) -> bool:
    """Whether the second line holds words, or numbers that count the columns of a group: 0, 1, 2, ..."""
    groups = defaultdict[str, list[str]](list)
    for group, name in zip(upper, lower, strict=True):
        groups[group].append(name)
    numbered = [names for names in groups.values() if any(map(NUMBER.match, names))]
    return all(_count_up(names) for names in numbered)


def _count_up(names: Sequence[str]) -> bool:
    return len(names) >= LEAST_NUMBERED and any(names == [str(n + k) for n in range(len(names))] for k in (0, 1))


def _index_names(lower: Sequence[str], third: Sequence[str]) -> list[str]:
    """The names of pandas' index, which stand on a line of their own, above columns that have no name below the first.

    Empty where the third line is not such a line.
    """
    named = next((n for n, cell in enumerate(third) if not cell), 0)
    alone = 0 < named < len(third) == len(lower) and not any(third[named:]) and not any(lower[1:named])
    return list(third[:named]) if alone else []


def _lines(data: bytes) -> list[str]:
    """The first lines with their ends, as many as may be needed."""
    text = io.StringIO(data[:PREVIEW_BYTES].decode("utf-8", errors="ignore"), newline="")
    lines: list[str] = []
    filled = 0
    for line in text:
        lines.append(line)
        filled += bool(line.strip()) and not line.startswith("#")
        if filled > PREVIEW:
            break
    return lines


def _above(lines: Sequence[str]) -> tuple[int, str | None]:
    """How many lines are above the header, and the separator if one of them names it. A later # may be a colour."""
    separator = None
    for number, line in enumerate(lines):
        excel = EXCEL_SEPARATOR.match(line) if separator is None else None
        if excel:
            separator = excel[1]
        elif line.strip() and not line.startswith("#"):
            return number, separator
    return len(lines), separator


def _records(lines: Sequence[str], separator: str) -> tuple[list[list[str]], list[int]]:
    """The records in these lines, and the number of lines up to the end of each; blank lines are none."""
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=separator != "\t")
    records, ends = [], []
    try:
        for record in islice(reader, PREVIEW):
            if record and any(cell.strip() for cell in record):
                records.append(record)
                ends.append(reader.line_num)
    except csv.Error:  # the end of the preview inside of a quoted cell, or a cell without an end
        pass
    return records, ends


def _separator(lines: Sequence[str]) -> str:
    """The one that explains the lines best; a comma where there is one column."""
    fits = {candidate: _fit(lines, candidate) for candidate in SEPARATORS}
    best = max(SEPARATORS, key=fits.__getitem__)
    return best if fits[best][0] else ","


def _fit(lines: Sequence[str], separator: str) -> tuple[bool, float, int]:
    """How well a separator explains the lines: whether it is in the header, how many rows agree, how many fields."""
    records = _records(lines, separator)[0]
    if not records or len(records[0]) < 2:
        return False, 0.0, 0
    fields = len(records[0])
    agree = sum(len(record) == fields for record in records) / len(records)
    return True, agree, fields
