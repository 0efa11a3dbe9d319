"""The `load_data` layout: CellProfiler's load_data.csv, which names the image of every channel, well and site.

The Cell Painting Gallery publishes one per plate. Images are opened where the table says, so a screen from any
microscope can be imported directly from its bucket; only the tables are searched for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.layouts.image_paths import Replacement, joined
from shards.layouts.keys import keys_of
from shards.layouts.load_data_tables import LoadDataTable, load_data_tables, read_load_data_table
from shards.layouts.platemaps import LOAD_DATA, describe, describes, find_platemaps, perturbations
from shards.layouts.well_table import CHANNEL, LayoutOutput, channel_names
from shards.tables.columns import FAULT, ORIGIN

if TYPE_CHECKING:
    import pandas as pd


def read_load_data(
    root: str,
    *,
    load_data: str | None = None,
    channels: str | None = None,
    replace: str | None = None,
    platemap: str | None = None,
    barcode_platemap: str | None = None,
) -> LayoutOutput:
    """Read a load_data table (CSV, compressed or not, or Parquet) of every folder below the root, one row per site.

    Channels are the `URL_Orig<Name>` or `FileName_Orig<Name>` (with `PathName_Orig<Name>`) columns, or without any
    `Orig`, `URL_<Name>` and `FileName_<Name>`; or those of them that `channels=DNA,ER` names.
    `replace=/their/path=s3://bucket` replaces the beginning of every location. The experiment is `Metadata_Batch`, else
    the folder `<batch>` of `<batch>/<plate>/load_data.csv`, else the plate. Perturbations come from
    barcode_platemap.csv with its platemap/*.txt, else from `Metadata_` columns. Options `load_data`, `platemap` and
    `barcode_platemap` say where these tables are, if not below the root.
    """
    import pandas as pd

    left_out = list[str]()
    locations = load_data_tables(root, load_data, left_out)
    if not locations:
        raise LayoutError("; ".join([f"{root}: no load_data.csv below this folder", *left_out[:1]]))
    selected = channel_names(channels) if channels else None
    replacement = Replacement.of(replace)
    parts: list[pd.DataFrame] = []
    described: list[pd.DataFrame] = []
    for location in locations:
        table = read_load_data_table(location, root, left_out)
        if table.frame.empty:
            left_out.append(f"{location}: no rows")
        parts.append(_wells(table, selected or tuple(table.images), root, replacement))
        if list(parts[-1].columns) != list(parts[0].columns):
            raise LayoutError(f"{location}, line 1: other channels than in {locations[0]}; choose with channels=DNA,ER")
        if describes(table.frame):
            described.append(perturbations(table.frame, table.wells, LOAD_DATA))
    wells = pd.concat(parts, ignore_index=True)
    described += find_platemaps(root, platemap, barcode_platemap, left_out)
    wells["key"] = keys_of("{plate}_{well}_s{site}", wells)
    return LayoutOutput([describe(wells, described)], notes=left_out)


def _wells(table: LoadDataTable, stains: tuple[str, ...], root: str, replacement: Replacement) -> pd.DataFrame:
    """One row per site of one table, under our column names."""
    wells = table.wells.assign(**{FAULT: ""})
    for stain in stains:
        if stain not in table.images:
            raise LayoutError(f"{table.location}, line 1: no channel {stain!r}; there are {', '.join(table.images)}")
        paths = _paths(table.frame, table.images[stain])
        named = " and ".join(
            repr(table.images[stain][kind]) for kind in ("URL", "FileName") if kind in table.images[stain]
        )
        blank = (paths == "") & (wells[FAULT] == "")
        wells[FAULT] = wells[FAULT].mask(blank, f"column {named} is empty")
        wells[CHANNEL + stain] = replacement.locations(root, paths, wells[ORIGIN])
    return wells


def _paths(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.Series[str]:
    """The paths of a channel as the table gives them: its URL, else the file in its folder; blank if both are."""
    import pandas as pd

    blank = [""] * len(frame)
    urls, files, folders = (
        frame[columns[kind]].str.strip() if kind in columns else blank for kind in ("URL", "FileName", "PathName")
    )
    paths = [url or joined(folder, file) for url, file, folder in zip(urls, files, folders, strict=True)]
    return pd.Series(paths, index=frame.index, dtype=str)
