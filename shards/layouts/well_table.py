"""The table of well images: what every layout produces and the builder consumes.

A well image is one field of view (site) of one well: one 2-D image per channel. Rows are in a file
(`shards.tables.mapped_rows`), so that a table takes only the memory of their numbers. pandas is imported inside
functions, so that a command that only prints its help starts fast.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import LayoutError
from shards.images.locations import file_of, files_of, is_url, path_of
from shards.layouts.row_faults import STRICT, FaultRule, Tolerance, shared_file
from shards.layouts.well_names import normal_wells
from shards.tables.columns import FAULT, INTERNAL, ORIGIN, WRITTEN_WELL
from shards.tables.mapped_rows import PART_ROWS, Rows

if TYPE_CHECKING:
    import pandas as pd

    from shards.tables.columns import Pattern

NEEDED = ("key", "experiment", "plate", "well", ORIGIN)
"""Columns that a layout must provide."""
PLACE = ("experiment", "plate", "well", "site")

DESCRIBING = ("gene", "treatment", "perturbation_type", "cell_type", "concentration", "SMILES")
"""Further text columns of every table, empty where the source does not give them."""

CHANNEL = "channel:"
"""Prefix of the columns that hold the location (`shards.images.locations`) of each channel's image."""

MAX_CHANNELS = 1000
MAX_NOTES = 20

RESERVED = frozenset({"shard", "split", "offset", "height", "width", "images", "channels"})
"""Columns that building shards adds to the table."""

KEY = re.compile(r"[A-Za-z0-9_+-]{1,90}")
"""A key names tar members: WebDataset cuts it at the first dot, and a USTAR name holds 100 bytes."""


@dataclass(frozen=True)
class LayoutOutput:
    """What the reader of a layout returns: well images part by part, with the columns of NEEDED and of `WellTable`.

    There is at least one part, none is empty, and all have the same columns, of text or of integers.
    `site`, DESCRIBING, FAULT and UNDESCRIBED may be absent. Where the locations of a channel follow a pattern over
    other columns, `patterns` has it instead of a column, since locations would be most of the table. `own_keys`: keys
    are the source's, not made from PLACE. `notes` says what below the root was not used, once all parts are read.
    """

    parts: Iterable[pd.DataFrame]
    patterns: Mapping[str, Pattern] = field(default_factory=dict)
    own_keys: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class WellTable:
    """Well images, one row each: NEEDED, DESCRIBING, `site`, a column per channel, and further columns as metadata."""

    stored: Rows
    patterns: Mapping[str, Pattern]
    numbers: NDArray[np.int64]  # of the rows that are well images of this table, by ascending key
    notes: tuple[str, ...] = ()  # what of the source was not used, or kept without a treatment

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.stored.columns

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        columns = [name.removeprefix(CHANNEL) for name in self.columns if name.startswith(CHANNEL)]
        return (*columns, *self.patterns)

    @property
    def wells(self) -> pd.DataFrame:
        """All rows, by ascending key: for tables that fit into memory."""
        return self.stored.take(self.numbers)

    def parts(self, *names: str) -> Iterator[pd.DataFrame]:
        """These columns, or all of them, by ascending key, PART_ROWS rows at a time."""
        return (self.stored.take(part, names or None) for part in chunked(self.numbers))

    def metadata(self, numbers: NDArray[np.int64]) -> pd.DataFrame:
        """These rows without the locations of their images; ORIGIN is `origin`, unless the source has such a column."""
        kept = [name for name in self.columns if not name.startswith(CHANNEL) and name not in INTERNAL - {ORIGIN}]
        rows = self.stored.take(numbers, kept)
        return rows if "origin" in kept else rows.rename(columns={ORIGIN: "origin"})

    def located(self, wells: pd.DataFrame) -> pd.DataFrame:
        """Rows of this table with a column of locations for every channel."""
        written = wells.assign(well=wells[WRITTEN_WELL]) if WRITTEN_WELL in wells else wells
        return wells.assign(**{CHANNEL + name: pattern.locations(written) for name, pattern in self.patterns.items()})

    def rows(self, numbers: NDArray[np.int64]) -> list[dict[str, Any]]:
        """These rows by column name, ORIGIN and FAULT among them, the locations of all channels in `images`."""
        columns = [CHANNEL + name for name in self.channels]
        rows = records(self.located(self.stored.take(numbers)).drop(columns=WRITTEN_WELL, errors="ignore"))
        for row in rows:
            row["images"] = tuple(row.pop(column) for column in columns)
            row.setdefault(FAULT, "")
        return rows


def table_of(output: LayoutOutput, folder: Path | None = None, tolerance: Tolerance = STRICT) -> WellTable:
    """The table of a layout's output, its rows in a file in `folder` or among temporary files.

    Wells get their normal name (`shards.layouts.well_names`). Raises LayoutError for a table that is empty, lacks a
    column, repeats a key or holds one that cannot name a tar member, and for a fault that is not tolerated.
    """
    reading = _Reading(output, tolerance)
    stored = Rows.write(reading.parts(), folder)
    table = WellTable(stored, output.patterns, stored.argsort("key"), reading.notes)
    if not table.channels or not all(table.channels):
        raise LayoutError(f"channel names must be present, got {list(table.channels)}")
    if len(table.channels) > MAX_CHANNELS:
        raise LayoutError(f"{len(table.channels)} channels; {MAX_CHANNELS} are the limit")
    _check_repeats(table)
    if reading.renamed and not output.own_keys:
        _check_places(table)
    return replace(table, notes=(*table.notes, *_shared_files(table)))


@dataclass
class _Reading:
    """Reads the parts of a layout's output, and knows afterwards what was found in them."""

    output: LayoutOutput
    tolerance: Tolerance
    renamed: bool = False  # whether any well got another name
    unlabelled: int = 0

    def parts(self) -> Iterator[pd.DataFrame]:
        """Complete parts, with wells by their normal names and without faults that are not tolerated."""
        keep_written = any("well" in pattern.fields for pattern in self.output.patterns.values())
        for part in map(_described, self.output.parts):
            rule = FaultRule(self.tolerance, tuple(name for name in names(part) if name.startswith(CHANNEL)))
            wells = rule.applied(part)
            self.unlabelled += rule.unlabelled
            written = wells["well"]
            wells = wells.assign(well=normal_wells(written), **({WRITTEN_WELL: written} if keep_written else {}))
            self.renamed = self.renamed or not written.equals(wells["well"])
            yield wells

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader did not use, and how many well images have no treatment."""
        notes = list(dict.fromkeys(self.output.notes))
        if len(notes) > MAX_NOTES:
            notes[MAX_NOTES:] = [f"and {len(notes) - MAX_NOTES} more that were not used"]
        if self.unlabelled:
            notes.append(f"kept without a treatment, as no table describes their wells: {self.unlabelled} well images")
        return tuple(notes)


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
        first = wells.loc[bad, [ORIGIN, "key"]].iloc[0]
        raise LayoutError(
            f"{first[ORIGIN]}: well key {first['key']!r} must be 1 to 90 letters, digits, '_', '+' or '-'"
        )
    described = {name: "" for name in DESCRIBING if name not in wells}
    return wells.assign(**described, **({} if "site" in wells else {"site": 1}))


def _check_repeats(table: WellTable) -> None:
    """Raise LayoutError for a key that two rows share: sorted by key, they are neighbours."""
    last, last_origin = "", ""
    for part in table.parts("key", ORIGIN):
        keys = [last, *part["key"]]
        for number, (key, following) in enumerate(pairwise(keys)):
            if key == following:
                first = part[ORIGIN].iloc[number - 1] if number else last_origin
                raise LayoutError(f"{part[ORIGIN].iloc[number]}: duplicate well key {key!r}, first at {first}")
        last, last_origin = part["key"].iloc[-1], part[ORIGIN].iloc[-1]


def _check_places(table: WellTable) -> None:
    """Raise LayoutError for a well image that has two rows, under two ways to write its well."""
    order = table.stored.argsort(*PLACE)
    last, last_origin = None, ""
    for part in map(partial(table.stored.take, names=[*PLACE, ORIGIN]), chunked(order)):
        for *place, origin in part.itertuples(index=False, name=None):
            if place == last:
                well, site = place[2:]
                raise LayoutError(f"{origin}: a second image of well {well} site {site}, first at {last_origin}")
            last, last_origin = place, origin


def _shared_files(table: WellTable) -> Iterator[str]:
    """A line for each channel with a file that several rows name; channels of patterns differ only in constants."""
    fields = set[str]().union(*(pattern.fields for pattern in table.patterns.values())) | {WRITTEN_WELL}
    needed = {ORIGIN, *fields.intersection(table.columns)}
    numbers = np.sort(table.numbers)
    for name in [*table.channels[: len(table.channels) - len(table.patterns)], *list(table.patterns)[:1]]:
        columns = sorted(needed) if name in table.patterns else [ORIGIN, CHANNEL + name]
        read = partial(_locations, table, CHANNEL + name, numbers, columns)
        if shared := shared_file(read):
            count, first, second = shared
            yield f"channel {name!r}: {count} well images have the file of another one, such as {second}: as {first}"


def _locations(
    table: WellTable, channel: str, numbers: NDArray[np.int64], columns: Sequence[str]
) -> Iterator[tuple[pd.Series[str], pd.Series[str]]]:
    for part in chunked(numbers):
        wells = table.stored.take(part, columns)
        wells = wells if channel in wells else table.located(wells)
        yield wells[channel], wells[ORIGIN]


def safe_key(text: str) -> str:
    """A key for any text: the text itself if it is a valid key, else its letters and digits and a digest."""
    if KEY.fullmatch(text):
        return text
    return f"{re.sub('[^A-Za-z0-9_+-]', '-', text)[:80]}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def check_images(table: WellTable) -> None:
    """Raise LayoutError naming the first row with a missing image file, and how many files are missing.

    Each folder is listed once, instead of checking file by file. Remote images are not checked: a missing one is
    reported when it is read.
    """
    listed = lru_cache(256)(_names_in)
    missing, first = 0, ("", "")
    order, in_table = table.stored.argsort("experiment", "plate", "well"), np.zeros(len(table.stored), bool)
    in_table[table.numbers] = True
    for part in chunked(order[in_table[order]]):  # each folder's images one after another
        wells = table.located(table.stored.take(part))
        for column in (CHANNEL + name for name in table.channels):
            for location, origin in zip(wells[column], wells[ORIGIN], strict=True):
                for file in files_of(location):
                    folder, _, name = file_of(file).rpartition("/")
                    if not is_url(file) and name not in listed(folder):
                        missing, first = missing + 1, first if missing else (origin, file)
    if missing:
        more = f" ({missing} image files are missing in all)" if missing > 1 else ""
        raise LayoutError(f"{first[0]}: image file {first[1]} does not exist{more}")


def chunked(numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Row numbers, PART_ROWS at a time."""
    return (numbers[begin : begin + PART_ROWS] for begin in range(0, len(numbers), PART_ROWS))


def _names_in(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(path_of(folder)))  # noqa: PTH208  (names only: creating paths costs 10 times as much)
    except OSError:
        return frozenset()


def channel_names(option: str) -> tuple[str, ...]:
    """Read an option such as `DNA,ER`; LayoutError for a name that is blank or repeated."""
    names = tuple(name.strip() for name in option.split(","))
    if len(set(names)) < len(names) or not all(names):
        raise LayoutError(f"option channels: expected DNA,ER with each name once, got {option!r}")
    return names


def names(table: pd.DataFrame) -> list[str]:
    """The column names of a table, as text."""
    return [str(column) for column in table.columns]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by column name."""
    return [{str(column): cell for column, cell in row.items()} for row in table.to_dict(orient="records")]
