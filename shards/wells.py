"""The table of well images: what every layout produces and the builder consumes.

A well image is one field of view (site) of one well: one 2-D file per channel. pandas is imported inside functions, so
that a command which only prints its help starts at once.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("key", "experiment", "plate", "well", "site", "gene", "treatment", "perturbation_type", "images", "origin")
"""The columns every table has. `origin` names the file and line a row was read from, for error messages."""

RESERVED = frozenset({"shard", "split", "offset", "height", "width"})
"""Columns that the shard index adds to the table."""

KEY = re.compile(r"[A-Za-z0-9_+-]{1,90}")
"""A key names tar members: WebDataset cuts it at the first dot, and a USTAR name holds 100 bytes."""


class LayoutError(ValueError):
    """The images or tables on disk are not what their layout says; the message names file and line."""


@dataclass(frozen=True)
class WellTable:
    """Well images, one row each (see COLUMNS; further columns are kept as metadata), and their channels' names.

    `images` holds a tuple of paths per row, in the order of `channels`. Refuses, with LayoutError, a table that is
    empty, lacks a column, repeats a key or holds a key that cannot name a tar member.
    """

    wells: pd.DataFrame
    channels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.wells.empty:
            raise LayoutError("no well images found")
        if absent := [name for name in COLUMNS if name not in self.wells]:
            raise LayoutError(f"the well table lacks the columns {absent}")
        if taken := sorted(RESERVED.intersection(self.wells)):
            raise LayoutError(f"column {taken[0]!r} is reserved for the shard index: rename it")
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise LayoutError(f"channel names must be present and unique, got {list(self.channels)}")
        _check_keys(self.wells)


def _check_keys(wells: pd.DataFrame) -> None:
    for key, origin in zip(wells["key"], wells["origin"], strict=True):
        if not KEY.fullmatch(key):
            raise LayoutError(f"{origin}: well key {key!r} must be 1 to 90 letters, digits, '_', '+' or '-'")
    repeated = wells["key"].duplicated(keep=False)
    if repeated.any():
        first, second = wells[wells["key"] == wells.loc[repeated, "key"].iloc[0]]["origin"].iloc[:2]
        raise LayoutError(f"{second}: duplicate well key {wells.loc[repeated, 'key'].iloc[0]!r}, first at {first}")


def check_images(table: WellTable) -> None:
    """Raise LayoutError naming the first row with a missing image file, and how many files are missing."""
    missing = [
        (origin, path)
        for origin, paths in zip(table.wells["origin"], table.wells["images"], strict=True)
        for path in paths
        if not path.is_file()
    ]
    if missing:
        origin, path = missing[0]
        more = f" ({len(missing)} image files are missing in all)" if len(missing) > 1 else ""
        raise LayoutError(f"{origin}: image file {path} does not exist{more}")


def read_csv(path: Path, required: Iterable[str] = (), separator: str = ",") -> pd.DataFrame:
    """Read a table (`.gz` too) as text, with the file and line of each row in `origin`; blank lines are skipped.

    Raises LayoutError for a file that is absent or not text, a repeated or absent column, or a row with too few or too
    many cells (an unquoted comma in a SMILES string is the usual cause).
    """
    import pandas as pd

    try:
        header, *rows = _csv_rows(path, separator)
    except FileNotFoundError:
        raise LayoutError(f"{path}: no such table") from None
    except (ValueError, OSError, csv.Error) as error:
        raise LayoutError(f"{path}: not a readable table: {error}") from error
    columns = header[1]
    if len(set(columns)) != len(columns):
        raise LayoutError(f"{path}, line 1: a column name is repeated")
    require_columns(path, columns, required)
    for line, cells in rows:
        if len(cells) != len(columns):
            raise LayoutError(f"{path}, line {line}: {len(cells)} cells, but the header has {len(columns)} columns")
    table = pd.DataFrame([cells for _, cells in rows], columns=columns, dtype=str)
    return table.assign(origin=[f"{path}, line {line}" for line, _ in rows])


def _csv_rows(path: Path, separator: str) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of its last line."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        return [(reader.line_num, row) for row in reader if row]


def with_images(wells: pd.DataFrame, images: Iterable[tuple[Path, ...]]) -> pd.DataFrame:
    """Add the column of image files, a tuple per row."""
    import pandas as pd

    return wells.assign(images=pd.Series(list(images), index=wells.index, dtype=object))


def names(table: pd.DataFrame) -> list[str]:
    """The column names of a table, as text."""
    return [str(column) for column in table.columns]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by column name."""
    return [{str(column): cell for column, cell in row.items()} for row in table.to_dict(orient="records")]


def require_columns(path: Path, present: Sequence[str], required: Iterable[str]) -> None:
    """Raise LayoutError for the first required column that is absent, with the nearest present one."""
    for name in required:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise LayoutError(f"{path}, line 1: no column {name!r}{hint}; the columns are {', '.join(present)}")


def require_cells(table: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise LayoutError for the first empty cell in the named columns."""
    for name in names:
        empty = table[name].str.strip() == ""
        if empty.any():
            raise LayoutError(f"{table.loc[empty, 'origin'].iloc[0]}: column {name!r} is empty")


def parse_pairs(text: str, option: str) -> dict[str, str]:
    """Read an option such as `ch1=Mito,ch2=AGP`."""
    pairs = [item.partition("=") for item in text.split(",")]
    if not all(left.strip() and right.strip() for left, _, right in pairs):
        raise LayoutError(f"option {option}: expected name=value,name=value, got {text!r}")
    return {left.strip(): right.strip() for left, _, right in pairs}
