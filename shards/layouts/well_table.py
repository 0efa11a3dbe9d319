"""The table of well images: what every layout produces and the builder consumes.

A well image is one field of view (site) of one well: one 2-D image per channel. Rows are in a file (`mapped_rows`), so
that a table takes the memory of their numbers alone. pandas is imported inside functions, so that a command which only
prints its help starts at once.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import LayoutError
from shards.images.locations import file_of, is_url, path_of
from shards.tables.mapped_rows import AT_ONCE, Rows

if TYPE_CHECKING:
    import pandas as pd

    from shards.tables.csv_tables import Pattern

NEEDED = ("key", "experiment", "plate", "well", "origin")
"""Columns that a layout must give. `origin` says which file and line a row was read from, for error messages."""

DESCRIBING = ("gene", "treatment", "perturbation_type", "cell_type", "concentration", "SMILES")
"""Columns that every table has besides, as text: empty where the source does not say."""

CHANNEL = "channel:"
"""Prefix of the columns that hold the location (`shards.images.locations`) of each channel's image."""

RESERVED = frozenset({"shard", "split", "offset", "height", "width", "images", "channels"})
"""Columns that the shards add to the table."""

KEY = re.compile(r"[A-Za-z0-9_+-]{1,90}")
"""A key names tar members: WebDataset cuts it at the first dot, and a USTAR name holds 100 bytes."""


@dataclass(frozen=True)
class LayoutOutput:
    """What the reader of a layout gives: well images part by part, by NEEDED and the columns that `WellTable` says.

    There is at least one part, none is empty, and all have the same columns, of text or of whole numbers.
    `site` and DESCRIBING may be absent. Where the locations of a channel follow a pattern over other columns,
    `patterns` has it in place of a column: they would be most of the table.
    """

    parts: Iterable[pd.DataFrame]
    patterns: Mapping[str, Pattern] = field(default_factory=dict)


@dataclass(frozen=True)
class WellTable:
    """Well images, one row each: NEEDED, DESCRIBING, `site`, a column per channel, and further columns as metadata."""

    held: Rows
    patterns: Mapping[str, Pattern]
    numbers: NDArray[np.int64]  # of the rows that are well images of this table, by ascending key

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.held.columns

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        columns = [name.removeprefix(CHANNEL) for name in self.columns if name.startswith(CHANNEL)]
        return (*columns, *self.patterns)

    @property
    def wells(self) -> pd.DataFrame:
        """All rows, by ascending key: for tables that fit into memory."""
        return self.held.take(self.numbers)

    def parts(self, *names: str) -> Iterator[pd.DataFrame]:
        """These columns, or all of them, by ascending key, AT_ONCE rows at a time."""
        return (self.held.take(part, names or None) for part in chunked(self.numbers))

    def metadata(self, numbers: NDArray[np.int64]) -> pd.DataFrame:
        """These rows without the locations of their images."""
        return self.held.take(numbers, [name for name in self.columns if not name.startswith(CHANNEL)])

    def located(self, wells: pd.DataFrame) -> pd.DataFrame:
        """Rows of this table with a column of locations for every channel."""
        return wells.assign(**{CHANNEL + name: one.locations(wells) for name, one in self.patterns.items()})

    def rows(self, numbers: NDArray[np.int64]) -> list[dict[str, Any]]:
        """These rows by column name, the locations of all channels together in `images`."""
        places = [CHANNEL + name for name in self.channels]
        rows = records(self.located(self.held.take(numbers)))
        for row in rows:
            row["images"] = tuple(row.pop(place) for place in places)
        return rows


def table_of(output: LayoutOutput, folder: Path | None = None) -> WellTable:
    """The table of a layout's output, its rows in a file in `folder` or among temporary files.

    Raises LayoutError for a table that is empty, lacks a column, repeats a key or holds one that cannot name a tar
    member.
    """
    held = Rows.write(map(_described, output.parts), folder)
    table = WellTable(held, output.patterns, held.argsort("key"))
    if not table.channels or not all(table.channels):
        raise LayoutError(f"channel names must be present, got {list(table.channels)}")
    _check_repeats(table)
    return table


def _described(wells: pd.DataFrame) -> pd.DataFrame:
    """A part with `site` 1 and empty describing columns where the source has none."""
    if wells.empty:
        raise LayoutError("no well images found")
    if absent := [name for name in NEEDED if name not in wells]:
        raise LayoutError(f"the well table lacks the columns {absent}")
    if taken := sorted(RESERVED.intersection(wells)):
        raise LayoutError(f"column {taken[0]!r} is reserved for the shard index: rename it")
    bad = ~wells["key"].str.fullmatch(KEY.pattern).astype(bool)
    if bad.any():
        first = wells.loc[bad, ["origin", "key"]].iloc[0]
        raise LayoutError(
            f"{first['origin']}: well key {first['key']!r} must be 1 to 90 letters, digits, '_', '+' or '-'"
        )
    described = {name: "" for name in DESCRIBING if name not in wells}
    return wells.assign(**described, **({} if "site" in wells else {"site": 1}))


def _check_repeats(table: WellTable) -> None:
    """Raise LayoutError for a key that two rows have: they are neighbours by key."""
    last, where = "", ""
    for part in table.parts("key", "origin"):
        keys = [last, *part["key"]]
        for number, (key, following) in enumerate(pairwise(keys)):
            if key == following:
                first = part["origin"].iloc[number - 1] if number else where
                raise LayoutError(f"{part['origin'].iloc[number]}: duplicate well key {key!r}, first at {first}")
        last, where = part["key"].iloc[-1], part["origin"].iloc[-1]


def safe_key(text: str) -> str:
    """A key made of any text: itself if it can be one, else its letters and digits, told apart by a digest."""
    if KEY.fullmatch(text):
        return text
    return f"{re.sub('[^A-Za-z0-9_+-]', '-', text)[:80]}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def check_images(table: WellTable) -> None:
    """Raise LayoutError naming the first row with a missing image file, and how many files are missing.

    Folders are listed, not files asked for one by one. Remote images are not looked for: reading them will tell.
    """
    listed = lru_cache(256)(_names_in)
    missing, first = 0, ("", "")
    order, wanted = table.held.argsort("experiment", "plate", "well"), np.zeros(len(table.held), bool)
    wanted[table.numbers] = True
    for part in chunked(order[wanted[order]]):  # each folder's images one after another
        wells = table.located(table.held.take(part))
        for column in (CHANNEL + name for name in table.channels):
            for location, origin in zip(wells[column], wells["origin"], strict=True):
                folder, _, name = file_of(location).rpartition("/")
                if not is_url(location) and name not in listed(folder):
                    missing, first = missing + 1, first if missing else (origin, location)
    if missing:
        more = f" ({missing} image files are missing in all)" if missing > 1 else ""
        raise LayoutError(f"{first[0]}: image file {first[1]} does not exist{more}")


def chunked(numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Row numbers, AT_ONCE at a time."""
    return (numbers[begin : begin + AT_ONCE] for begin in range(0, len(numbers), AT_ONCE))


def _names_in(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(path_of(folder)))  # noqa: PTH208  (names alone: a path each would cost ten times more)
    except OSError:
        return frozenset()


def names(table: pd.DataFrame) -> list[str]:
    """The column names of a table, as text."""
    return [str(column) for column in table.columns]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by column name."""
    return [{str(column): cell for column, cell in row.items()} for row in table.to_dict(orient="records")]
