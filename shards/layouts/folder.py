"""The `folder` layout: a plain folder of images, described by a CSV table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import join
from shards.layouts.well_table import CHANNEL, LayoutOutput, names, safe_key
from shards.tables.csv_tables import csv_parts, fields_of, filled, integers, require_cells, require_columns

if TYPE_CHECKING:
    import pandas as pd


def read_folder(
    root: str, *, table: str = "wells.csv", pattern: str | None = None, channels: str | None = None
) -> LayoutOutput:
    """Read a plain folder described by a CSV table with at least the columns experiment, plate and well.

    Images are named either by one column per channel, `channel:<name>`, or by `pattern` over the table's columns and
    `{channel}`, for the comma-separated `channels`. Paths are relative to `root`; absolute paths, URLs and
    `file.parquet#row.column` are taken as they are. Optional columns: key (default
    `<experiment>_<plate>_<well>_<site>`), site (default 1), and the describing columns; others are kept as metadata.
    """
    return LayoutOutput(_folder_parts(root, join(root, table), pattern, channels))


def _folder_parts(root: str, location: str, pattern: str | None, channels: str | None) -> Iterator[pd.DataFrame]:
    for wells in csv_parts(location, ("experiment", "plate", "well")):
        require_cells(wells, ("experiment", "plate", "well"))
        wells["site"] = integers(wells, "site") if "site" in wells else 1
        images = _pattern_images(location, wells, pattern, channels) if pattern else _column_images(location, wells)
        for name, paths in images.items():
            wells[CHANNEL + name] = [join(root, path) for path in paths]
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
    channel_names = [name.strip() for name in channels.split(",")]
    if len(set(channel_names)) < len(channel_names):
        raise LayoutError(f"option channels names a channel twice: {channels}")
    return {name: filled(pattern, wells, {"channel": name}) for name in channel_names}
