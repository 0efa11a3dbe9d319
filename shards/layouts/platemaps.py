"""Read what was done to each well of a JUMP-like screen, from plate maps or from `Metadata_` columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import is_file, join
from shards.layouts.well_names import normal_wells, wells_of
from shards.layouts.well_table import DESCRIBING, names
from shards.tables.columns import ORIGIN, UNDESCRIBED, require_columns
from shards.tables.read_tables import find_tables, read_table

if TYPE_CHECKING:
    import pandas as pd

ALIASES = {
    "treatment": ("broad_sample", "treatment", "pert_iname", "JCP2022"),
    "gene": ("gene", "Gene", "Symbol"),
    "perturbation_type": ("perturbation_type", "pert_type"),
    "cell_type": ("cell_type", "Cell_type", "cell_line"),
    "concentration": ("concentration", "mmoles_per_liter"),
    "SMILES": ("SMILES", "smiles"),
}
"""Names of our columns in published plate maps; the first one present is used."""
PREFIXES = ("Metadata_", "Image_Metadata_", "")
WELLS = ("well_position", "Metadata_well_position", "Metadata_Well", "Well", "well")

BARCODES = re.compile(r"barcode_platemap\.(parquet|pq|(csv|tsv|txt)(\.(gz|bz2|xz|zst|zip))?)", re.IGNORECASE)
PLATEMAP = (".txt", "", ".csv", ".tsv", ".txt.gz", ".csv.gz", ".txt.zst", ".csv.zst")
"""What may follow the name of a plate map in the name of its file."""

LOAD_DATA, MAP = 0, 1
"""Kinds of description: a plate map takes precedence over `Metadata_` columns."""
WHERE = ["experiment", "plate", "well"]


def find_platemaps(root: str, option: str | None, barcodes: str | None, left_out: list[str]) -> list[pd.DataFrame]:
    """Descriptions (`perturbations`), a table per plate, from the barcode tables and the plate maps that they name.

    Plate maps are in the folder `platemap` next to the barcode table, or in the folder or file of `option`. Barcode
    tables are below the root, or where the option `barcodes` says; the name of their folder may be a batch's.
    """
    tables: list[pd.DataFrame] = []
    paths = find_tables(root, barcodes, BARCODES, left_out, "barcode_platemap")
    if option and not paths:
        raise LayoutError(
            f"{root}: option platemap needs a barcode_platemap.csv, which names the plate map of each plate"
        )
    for path in paths:
        batch = path.split("/")[-2] if "/" in path else ""
        folder = join(root, option) if option else f"{path.rpartition('/')[0]}/platemap"
        single = option is not None and folder.endswith(tuple(filter(None, PLATEMAP)))
        table = read_table(path, ("Assay_Plate_Barcode", "Plate_Map_Name"))
        maps: dict[str, pd.DataFrame] = {}
        named = table[table["Plate_Map_Name"].str.strip() != ""]  # a plate without a map has undescribed wells
        for plate, name, origin in named[["Assay_Plate_Barcode", "Plate_Map_Name", ORIGIN]].to_numpy().tolist():
            if name not in maps:
                maps[name] = _read_platemap(folder if single else _file_of_map(folder, name.strip(), origin))
            tables.append(maps[name].assign(plate=plate.strip(), experiment=batch))
    return tables


def _file_of_map(folder: str, name: str, named_in: str) -> str:
    files = [f"{folder}/{name}{suffix}" for suffix in PLATEMAP]
    file = next(filter(is_file, files), None)
    if file is None:
        raise LayoutError(f"{named_in}: plate map {files[0]} does not exist")
    return file


def _read_platemap(location: str) -> pd.DataFrame:
    table = read_table(location, known=(*WELLS, *chain.from_iterable(ALIASES.values())))
    well = wells_of(table, WELLS)
    require_columns(location, names(table), WELLS[:1] if well is None else [])
    if next(_columns(table, "treatment"), None) is None:
        require_columns(location, names(table), ALIASES["treatment"][:1])
    return perturbations(table, table[[ORIGIN]].assign(well=well), MAP)


def describes(table: pd.DataFrame) -> bool:
    """Whether a table says what was done to its wells, by a treatment or a gene."""
    return any(next(_columns(table, name), None) is not None for name in ("treatment", "gene"))


def perturbations(table: pd.DataFrame, where: pd.DataFrame, kind: int) -> pd.DataFrame:
    """The describing columns of a table, under our names; an empty treatment is DMSO.

    `where`: the well of each row and its ORIGIN, and experiment and plate if they are known.
    """
    import pandas as pd

    blank = pd.Series("", index=table.index, dtype=str)
    described = {name: next((table[c].str.strip() for c in _columns(table, name)), blank) for name in DESCRIBING}
    if treated := next(_columns(table, "treatment"), None):
        described["treatment"] = described["treatment"].mask(table[treated].str.strip() == "", "DMSO")
    kept = where[[name for name in (*WHERE, ORIGIN) if name in where]].assign(kind=kind, **described)
    return kept.assign(well=normal_wells(kept["well"]))


def _columns(table: pd.DataFrame, name: str) -> Iterator[str]:
    """The columns of a table that have one of our describing columns; names in the usual case come first."""
    named = [prefix + alias for alias in ALIASES[name] for prefix in PREFIXES]
    others = {column.lower(): column for column in reversed(names(table))}
    return chain(
        (column for column in named if column in table),
        (others[column.lower()] for column in named if column.lower() in others),
    )


def describe(wells: pd.DataFrame, described: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Add the describing columns, and UNDESCRIBED for each well that none of the tables describes.

    A description whose experiment is one of those that its plate is in holds there only, and takes precedence; any
    other holds for all plates of its name, as its folder is no batch's. Barcodes are compared as numbers if they are
    numbers (1.0 is 1, and 001 is another). LayoutError for two descriptions of one well that differ.
    """
    import pandas as pd

    if not described:
        return wells
    ours = wells[WHERE].assign(plate=_barcodes(wells["plate"]), well=normal_wells(wells["well"]))
    known = pd.concat(described, ignore_index=True)
    known = known.assign(plate=_barcodes(known["plate"]))
    batches = ours[["experiment", "plate"]].drop_duplicates()
    own = known[["experiment", "plate"]].merge(batches.assign(own=True), how="left")["own"].notna().to_numpy()
    rows = pd.Series(-1, index=wells.index)
    for kind in (LOAD_DATA, MAP):
        for is_own, where in ((False, WHERE[1:]), (True, WHERE)):
            group = known[(known["kind"] == kind) & (own == is_own)]
            found = ours.merge(_one_per_well(group, where, ours), how="left", on=where)["row"].set_axis(wells.index)
            rows = rows.mask(found.notna(), found)
    blank = pd.DataFrame("", index=[-1], columns=list(DESCRIBING))
    texts = pd.concat([known[list(DESCRIBING)], blank]).loc[rows.astype(int)].set_index(wells.index)
    none = "no plate map or load_data.csv describes well " + ours["well"] + " of " + wells["plate"]
    return wells.assign(**texts, **{UNDESCRIBED: none.where(rows == -1, "")})


def _one_per_well(group: pd.DataFrame, where: list[str], wells: pd.DataFrame) -> pd.DataFrame:
    """The row of each of these wells among the descriptions; LayoutError if two of a well differ."""
    imaged = group.assign(row=group.index).merge(wells[where].drop_duplicates(), on=where)
    distinct = imaged.drop_duplicates([*where, *DESCRIBING])
    second = distinct[distinct.duplicated(where)]
    if len(second):
        other = second.iloc[0]
        first = distinct[(distinct[where] == other[where]).all(axis=1)].iloc[0]
        name = next(name for name in DESCRIBING if first[name] != other[name])
        raise LayoutError(
            f"{other[ORIGIN]}: {name} {other[name]!r} of well {other['well']} of {other['plate']}, but {first[name]!r} "
            f"at {first[ORIGIN]}: one description per well is needed"
        )
    return distinct[[*where, "row"]]


def _barcodes(plates: pd.Series[str]) -> pd.Series[str]:
    """Barcodes as they are compared."""
    return plates.str.strip().str.replace(r"^([0-9]+)\.0+$", r"\1", regex=True)
