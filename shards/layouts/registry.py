"""Layouts: how images and their metadata lie on disk. Each reader turns a folder into one table of well images.

To add a layout, write a reader `(root, **options) -> Reading` whose options are keyword arguments that accept text,
and name it in LAYOUTS.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shards.images.locations import is_folder, is_url, join
from shards.layouts.jump import read_jump
from shards.layouts.load_data import read_load_data
from shards.layouts.rxrx import RXRX1, RXRX2, RXRX3, RXRX19A, RXRX19B, read_rxrx, read_rxrx3_core
from shards.layouts.well_table import CHANNEL, LayoutError, Reading, WellTable, names, safe_key, table_of
from shards.tables.csv_tables import csv_parts, fields_of, filled, require_cells, require_columns, whole_numbers

if TYPE_CHECKING:
    import pandas as pd


def read_folder(
    root: str, *, table: str = "wells.csv", pattern: str | None = None, channels: str | None = None
) -> Reading:
    """Read a plain folder described by a CSV table with at least the columns experiment, plate and well.

    Images are named either by one column per channel, `channel:<name>`, or by `pattern` over the table's columns and
    `{channel}`, for the comma-separated `channels`. Paths are relative to `root`; absolute paths, URLs and
    `file.parquet#row.column` stand for themselves. Optional columns: key (default
    `<experiment>_<plate>_<well>_<site>`), site (default 1), and what describes the well; others are kept as metadata.
    """
    return Reading(_folder_parts(root, join(root, table), pattern, channels))


def _folder_parts(root: str, location: str, pattern: str | None, channels: str | None) -> Iterator[pd.DataFrame]:
    for wells in csv_parts(location, ("experiment", "plate", "well")):
        require_cells(wells, ("experiment", "plate", "well"))
        wells["site"] = whole_numbers(wells, "site") if "site" in wells else 1
        images = _pattern_images(location, wells, pattern, channels) if pattern else _column_images(location, wells)
        for name, places in images.items():
            wells[CHANNEL + name] = [join(root, place) for place in places]
        if "key" not in wells:
            wells["key"] = [safe_key(key) for key in filled("{experiment}_{plate}_{well}_{site}", wells, {})]
        yield wells


def _column_images(location: str, wells: pd.DataFrame) -> dict[str, pd.Series[str]]:
    columns = [name for name in names(wells) if name.startswith(CHANNEL)]
    if not columns:
        raise LayoutError(f"{location}, line 1: no column '{CHANNEL}<name>', and no pattern and channels were given")
    require_cells(wells, columns)
    return {name.removeprefix(CHANNEL): wells[name] for name in columns}


def _pattern_images(
    location: str, wells: pd.DataFrame, pattern: str, channels: str | None
) -> dict[str, pd.Series[str]]:
    if not channels:
        raise LayoutError("option pattern also needs channels, such as channels=DNA,ER")
    fields = fields_of(pattern)
    if "channel" not in fields:
        raise LayoutError(f"pattern {pattern!r} names no {{channel}}")
    require_columns(location, names(wells), sorted(fields - {"channel"}))
    given = [name.strip() for name in channels.split(",")]
    if len(set(given)) < len(given):
        raise LayoutError(f"option channels names a channel twice: {channels}")
    return {name: filled(pattern, wells, {"channel": name}) for name in given}


LAYOUTS: dict[str, Callable[..., Reading]] = {
    "rxrx1": partial(read_rxrx, RXRX1),
    "rxrx2": partial(read_rxrx, RXRX2),
    "rxrx19a": partial(read_rxrx, RXRX19A),
    "rxrx19b": partial(read_rxrx, RXRX19B),
    "rxrx3": partial(read_rxrx, RXRX3),
    "rxrx3_core": read_rxrx3_core,
    "jump": read_jump,
    "load_data": read_load_data,
    "folder": read_folder,
}


def read_layout(layout: str, root: str | Path, folder: Path | None = None, /, **options: str) -> WellTable:
    """Read `root`, a folder or a URL, by the layout of this name; rows go to a file without a name in `folder`.

    Raises LayoutError for an unknown layout or option and for whatever the layout's reader finds wrong. Images are
    named here but not opened (see `shards.layouts.well_table.check_images`).
    """
    root = str(root)
    if layout not in LAYOUTS:
        raise LayoutError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    if not is_url(root) and not is_folder(root):
        raise LayoutError(f"{root}: no such folder")
    known = [name for name in inspect.signature(LAYOUTS[layout]).parameters if name != "root"]
    for name in options:
        if name not in known:
            raise LayoutError(f"layout {layout!r} has no option {name!r}; it has {', '.join(known) or 'none'}")
    try:
        reading = LAYOUTS[layout](root, **options)
    except OSError as error:
        raise LayoutError(f"{root}: {error}") from error
    return table_of(replace(reading, parts=_from_here(reading.parts, root)), folder)


def _from_here(parts: Iterable[pd.DataFrame], root: str) -> Iterator[pd.DataFrame]:
    """Origins end up in the shards' table: what they say must not depend on where the images lay."""
    above = join(root, "").rstrip("/") + "/"
    for part in parts:
        yield part.assign(origin=part["origin"].str.removeprefix(above))
