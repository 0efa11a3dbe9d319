"""The `load_data` layout: CellProfiler's load_data.csv, which names the image of every channel, well and site.

The Cell Painting Gallery publishes one per plate. Images are opened where the table says, so a screen from any
microscope can be imported directly from its bucket; only the tables are searched for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import join
from shards.layouts.platemaps import describe, describes, find_tables, perturbations, read_platemaps
from shards.layouts.well_table import CHANNEL, LayoutOutput, names, safe_key
from shards.tables.csv_tables import filled, integers, parse_pairs, read_csv, require_cells

if TYPE_CHECKING:
    import pandas as pd

URL_COLUMN, FILE_COLUMN, PATH_COLUMN = "URL_Orig", "FileName_Orig", "PathName_Orig"
STAIN = re.compile(f"({URL_COLUMN}|{FILE_COLUMN})(?P<stain>.+)")
NEEDED = ("Metadata_Plate", "Metadata_Well", "Metadata_Site")


def read_load_data(
    root: str,
    *,
    load_data: str | None = None,
    channels: str | None = None,
    replace: str | None = None,
    platemap: str | None = None,
    barcode_platemap: str | None = None,
) -> LayoutOutput:
    """Read every load_data.csv[.gz] below the root, one row per site.

    Channels are the `URL_Orig<Name>` or `FileName_Orig<Name>` (with `PathName_Orig<Name>`) columns, or those of them
    that `channels=DNA,ER` names. `replace=/their/path=s3://bucket` replaces the beginning of every location. The
    experiment is `Metadata_Batch`, else the folder `<batch>` of `<batch>/<plate>/load_data.csv`. Perturbations come
    from barcode_platemap.csv with its platemap/*.txt, else from `Metadata_` columns. Options `load_data`, `platemap`
    and `barcode_platemap` say where these tables are, if not below the root.
    """
    import pandas as pd

    tables = find_tables(root, load_data, "load_data.csv", "load_data.csv.gz")
    if not tables:
        raise LayoutError(f"{root}: no load_data.csv below this folder")
    selected = tuple(name.strip() for name in channels.split(",")) if channels else None
    parts: list[pd.DataFrame] = []
    described: list[pd.DataFrame] = []
    for location in tables:
        table = read_csv(location, NEEDED)
        require_cells(table, NEEDED)
        parts.append(_wells(location, table, selected or _stains(location, table), root, replace))
        if list(parts[-1].columns) != list(parts[0].columns):
            raise LayoutError(f"{location}, line 1: other channels than in {tables[0]}; choose with channels=DNA,ER")
        table = table.rename(columns=lambda name: name.removeprefix("Metadata_")).rename(
            columns={"Plate": "plate", "Well": "well"}
        )
        if describes(table):
            described.append(perturbations(table))
    wells = pd.concat(parts, ignore_index=True)
    barcodes = find_tables(root, barcode_platemap, "barcode_platemap.csv")
    described += read_platemaps(root, platemap, barcodes)
    wells["key"] = [safe_key(key) for key in filled("{plate}_{well}_s{site}", wells, {})]
    return LayoutOutput([describe(wells, described)])


def _stains(location: str, table: pd.DataFrame) -> tuple[str, ...]:
    stains = {match["stain"] for name in names(table) if (match := STAIN.fullmatch(name))}
    if not stains:
        raise LayoutError(f"{location}, line 1: no column {FILE_COLUMN}<Name> or {URL_COLUMN}<Name>")
    return tuple(sorted(stains))


def _wells(location: str, table: pd.DataFrame, stains: tuple[str, ...], root: str, replace: str | None) -> pd.DataFrame:
    """One row per site of one table, under our column names."""
    batch = location.split("/")[-3] if location.count("/") > 2 else ""
    wells = table[["origin"]].assign(
        experiment=table["Metadata_Batch"] if "Metadata_Batch" in table else batch or table["Metadata_Plate"],
        plate=table["Metadata_Plate"],
        well=table["Metadata_Well"],
        site=integers(table, "Metadata_Site"),
    )
    old, new = next(iter(parse_pairs(replace, "replace").items())) if replace else ("", "")
    for stain in stains:
        paths = _paths(location, table, stain)
        moved = [new + path.removeprefix(old) if old and path.startswith(old) else path for path in paths]
        wells[CHANNEL + stain] = [join(root, path) for path in moved]
    return wells


def _paths(location: str, table: pd.DataFrame, stain: str) -> pd.Series[str]:
    if URL_COLUMN + stain in table:
        require_cells(table, [URL_COLUMN + stain])
        return table[URL_COLUMN + stain]
    if FILE_COLUMN + stain not in table:
        raise LayoutError(f"{location}, line 1: no channel {stain!r}; there are {', '.join(_stains(location, table))}")
    require_cells(table, [FILE_COLUMN + stain])
    if PATH_COLUMN + stain not in table:
        return table[FILE_COLUMN + stain]
    return table[PATH_COLUMN + stain].str.rstrip("/") + "/" + table[FILE_COLUMN + stain]
