"""The `folder` layout: a plain folder of images, described by a table."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import join
from shards.layouts.image_paths import Replacement
from shards.layouts.row_faults import first_blank
from shards.layouts.well_table import CHANNEL, LayoutOutput, channel_names, names, safe_key
from shards.tables.columns import FAULT, ORIGIN, fields_of, filled, integers, require_cells, require_columns
from shards.tables.read_tables import table_parts

if TYPE_CHECKING:
    import pandas as pd

WHERE = ("experiment", "plate", "well")


def read_folder(
    root: str,
    *,
    table: str = "wells.csv",
    pattern: str | None = None,
    channels: str | None = None,
    replace: str | None = None,
) -> LayoutOutput:
    """Read a plain folder described by a table (CSV or Parquet) with at least the columns experiment, plate and well.

    Images are named either by one column per channel, `channel:<name>`, or by `pattern` over the table's columns and
    `{channel}`, for the comma-separated `channels`. Paths are relative to `root`; absolute paths, URLs and
    `file.parquet#row.column` are taken as they are, but for their beginning if `replace=/their/path=/data` replaces it.
    Optional columns: key (default `<experiment>_<plate>_<well>_<site>`), site (default 1), and the describing columns;
    others are kept as metadata.
    """
    location = join(root, table)
    parts = table_parts(location, WHERE)
    first = next(parts)
    replacement, own_keys = Replacement.of(replace), "key" in first
    wells = (_wells(root, location, part, pattern, channels, replacement) for part in chain([first], parts))
    return LayoutOutput(wells, own_keys=own_keys)


def _wells(
    root: str,
    location: str,
    wells: pd.DataFrame,
    pattern: str | None,
    channels: str | None,
    replacement: Replacement,
) -> pd.DataFrame:
    require_cells(wells, WHERE)
    wells = wells.assign(**{name: wells[name].str.strip() for name in WHERE})
    wells["site"] = integers(wells, "site") if "site" in wells else 1
    images = _column_images(wells)
    wells[FAULT] = first_blank(wells, [CHANNEL + name for name in images])
    if pattern:
        by_pattern = _pattern_images(location, wells, pattern, channels)
        if both := sorted(set(images).intersection(by_pattern)):
            raise LayoutError(f"{location}, line 1: column '{CHANNEL}{both[0]}' names images, and so does the pattern")
        images |= by_pattern
    if not images:
        raise LayoutError(f"{location}, line 1: no column '{CHANNEL}<name>', and no pattern and channels were given")
    for name, paths in images.items():
        wells[CHANNEL + name] = replacement.locations(root, paths, wells[ORIGIN])
    if "key" not in wells:
        wells["key"] = [safe_key(key) for key in filled("{experiment}_{plate}_{well}_{site}", wells, {})]
    return wells


def _column_images(wells: pd.DataFrame) -> dict[str, pd.Series[str]]:
    columns = [name for name in names(wells) if name.startswith(CHANNEL)]
    return {name.removeprefix(CHANNEL): wells[name].str.strip() for name in columns}


def _pattern_images(
    location: str, wells: pd.DataFrame, pattern: str, channels: str | None
) -> dict[str, pd.Series[str]]:
    if not channels:
        raise LayoutError("option pattern also needs channels, such as channels=DNA,ER")
    fields = fields_of(pattern)
    if "channel" not in fields:
        raise LayoutError(f"pattern {pattern!r} names no {{channel}}")
    require_columns(location, names(wells), sorted(fields - {"channel"}))
    return {name: filled(pattern, wells, {"channel": name}) for name in channel_names(channels)}
