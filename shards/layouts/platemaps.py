"""Read the perturbation of each well of a JUMP-like screen, from plate maps or from `Metadata_` columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import find, is_file, join
from shards.layouts.well_table import DESCRIBING, names
from shards.tables.csv_tables import read_csv, require_columns

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

WHERE = ["plate", "well"]


def find_tables(root: str, option: str | None, *file_names: str) -> list[str]:
    """Files with these names below the root; or, if an option names a folder or a file instead, below or at that."""
    location = join(root, option) if option else root
    if option and is_file(location):
        return [location]
    files = [file for file in find(location) if file.rpartition("/")[2] in file_names]
    if option and not files:
        raise LayoutError(f"{location}: no {file_names[0]} in this folder")
    return files


def read_platemaps(root: str, option: str | None, barcodes: Iterable[str]) -> list[pd.DataFrame]:
    """Perturbations by plate and well, a table per plate, from the barcode tables and the plate maps they name.

    Plate maps are in the folder `platemap` next to the barcode table, or in the folder or file of `option`.
    """
    tables: list[pd.DataFrame] = []
    for path in barcodes:
        folder = join(root, option) if option else f"{path.rpartition('/')[0]}/platemap"
        table = read_csv(path, ("Assay_Plate_Barcode", "Plate_Map_Name"))
        maps: dict[str, pd.DataFrame] = {}
        for plate, name, origin in table[["Assay_Plate_Barcode", "Plate_Map_Name", "origin"]].to_numpy().tolist():
            source = folder if folder.endswith(".txt") else f"{folder}/{name}.txt"
            if source not in maps:
                maps[source] = _read_platemap(source, origin)
            tables.append(maps[source].assign(plate=plate))
    return tables


def _read_platemap(location: str, named_in: str) -> pd.DataFrame:
    if not is_file(location):
        raise LayoutError(f"{named_in}: plate map {location} does not exist")
    table = read_csv(location, ("well_position",), separator="\t")
    if not describes(table):
        require_columns(location, names(table), ALIASES["treatment"][:1])
    return perturbations(table.rename(columns={"well_position": "well"}))


def describes(table: pd.DataFrame) -> bool:
    """Whether a table says what was done to its wells."""
    return any(column in table for column in ALIASES["treatment"])


def perturbations(table: pd.DataFrame) -> pd.DataFrame:
    """The describing columns of a table, under our names; an empty treatment is DMSO."""
    kept = {name: next((table[alias] for alias in ALIASES[name] if alias in table), "") for name in DESCRIBING}
    where = {name: table[name] for name in WHERE if name in table}
    described = table[[]].assign(**where, **kept)
    return described.assign(treatment=described["treatment"].mask(described["treatment"] == "", "DMSO"))


def describe(wells: pd.DataFrame, described: list[pd.DataFrame]) -> pd.DataFrame:
    """Add the describing columns; later tables take precedence. LayoutError for a well that none describes."""
    import pandas as pd

    if not described:
        return wells
    descriptions = pd.concat(described, ignore_index=True).drop_duplicates(WHERE, keep="last")
    joined = wells.drop(columns=[name for name in DESCRIBING if name in wells]).merge(
        descriptions, how="left", on=WHERE
    )
    unknown = joined["treatment"].isna()
    if unknown.any():
        first = joined.loc[unknown].iloc[0]
        raise LayoutError(
            f"{first['origin']}: no plate map or load_data.csv describes well {first['well']} of {first['plate']}"
        )
    return joined
