"""Find and read load_data tables: which columns name plate, well and site, and which the images of each channel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import is_url, join, path_of
from shards.layouts.well_names import wells_of
from shards.layouts.well_table import names
from shards.tables.columns import ORIGIN, integers, require_cells, require_columns
from shards.tables.read_tables import find_tables, read_table

if TYPE_CHECKING:
    import pandas as pd

FILE = re.compile(
    r"load_data(?P<illum>_with_illum)?\.((?P<parquet>parquet|pq)|(csv|tsv|txt)(?P<compressed>\.(gz|bz2|xz|zst|zip))?)",
    re.IGNORECASE,
)
IMAGE = re.compile(r"(?P<image>Image_)?(?P<kind>URL|FileName)_(?P<orig>Orig)?(?P<channel>.+)")
NOT_CHANNELS = re.compile(r"illum|masks?(?![a-z])|outline|objects?(?![a-z])|overlay|segment", re.IGNORECASE)
"""Images that CellProfiler makes from those of the microscope, by their names."""
ALIASES = {
    "plate": (
        "Metadata_Plate", "Image_Metadata_Plate", "Plate", "Metadata_Barcode", "Metadata_Plate_Barcode",
        "Metadata_Assay_Plate_Barcode", "Assay_Plate_Barcode", "Barcode",
    ),
    "well": ("Metadata_Well", "Image_Metadata_Well", "Well", "Metadata_Well_Position", "Metadata_well_position"),
    "site": ("Metadata_Site", "Image_Metadata_Site", "Site", "Metadata_Field", "Metadata_FieldID", "Field"),
    "batch": ("Metadata_Batch", "Image_Metadata_Batch", "Batch"),
}  # fmt: skip
"""Names of our columns in these tables; the first one present is used."""
NOT_BATCHES = {"load_data_csv", "load_data", "workspace", "images", "metadata"}
"""Names of folders that say what is in them, and not which batch."""


@dataclass(frozen=True)
class LoadDataTable:
    """A table, and the columns that name the images of each channel, by kind: URL, FileName, PathName."""

    location: str
    frame: pd.DataFrame
    images: Mapping[str, Mapping[str, str]]
    wells: pd.DataFrame  # columns experiment, plate, well and ORIGIN, and site if it was asked for


def load_data_tables(root: str, option: str | None, left_out: list[str]) -> list[str]:
    """One load_data table of each folder below the root, or at the place that the option names.

    In a folder with several, `load_data` comes before `load_data_with_illum`, CSV before compressed CSV and Parquet.
    """
    folders: dict[str, list[str]] = {}
    for file in find_tables(root, option, FILE, left_out, "load_data"):
        folders.setdefault(file.rpartition("/")[0], []).append(file)
    tables = [min(files, key=_preference) if len(files) > 1 else files[0] for files in folders.values()]
    if others := [file for files in folders.values() for file in files if file not in tables]:
        left_out.append(f"{len(others)} tables lie beside a load_data table that was read, such as {others[0]}")
    return tables


def _preference(file: str) -> tuple[bool, bool, bool]:
    name = FILE.fullmatch(file.rpartition("/")[2])
    assert name is not None  # of a file that an option names, which is alone
    return bool(name["illum"]), bool(name["parquet"]), bool(name["compressed"])


def read_load_data_table(location: str, root: str, left_out: list[str], sites: bool = True) -> LoadDataTable:
    """Read one table; LayoutError if it names no plates or wells, or no images where these are needed."""
    frame = _usual_names(read_table(location, known=chain.from_iterable(ALIASES.values())))
    wells = _wells(location, frame, root, sites)
    images = _image_columns(names(frame))
    if sites and not images:
        raise LayoutError(f"{location}, line 1: no column FileName_<Name> or URL_<Name> of a channel")
    used = {column for columns in images.values() for column in columns.values()}
    if others := [name for name in names(frame) if _channel(name) and name not in used]:
        left_out.append(f"{location}: columns without Orig in their names are not used: {', '.join(others)}")
    return LoadDataTable(location, frame, images, wells)


def _usual_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Name `Image_Metadata_Plate_DAPI`, as BBBC021 has it from the name of a file, `Metadata_Plate`."""
    renamed: dict[str, str] = {}
    for name, aliases in ALIASES.items():
        of_a_channel = re.compile(f"(Image_)?Metadata_{name}_[A-Za-z0-9]+", re.IGNORECASE)
        matching = [column for column in names(frame) if of_a_channel.fullmatch(column)]
        if len(matching) == 1 and not any(alias in frame for alias in aliases):
            renamed[matching[0]] = aliases[0]
    return frame.rename(columns=renamed)


def _alias(frame: pd.DataFrame, name: str) -> str:
    """The name that a table has for one of our columns; the usual one if it has none."""
    return next((alias for alias in ALIASES[name] if alias in frame), ALIASES[name][0])


def _image_columns(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """The columns of each channel by kind; those of `Orig` images alone, if there are any."""
    matches = [match for name in columns if (match := _channel(name))]
    if any(match["orig"] for match in matches):
        matches = [match for match in matches if match["orig"]]
    images: dict[str, dict[str, str]] = {}
    for match in matches:
        kinds = images.setdefault(match["channel"], {})
        kinds.setdefault(match["kind"], match.string)
        folder = f"{match['image'] or ''}PathName_{match['orig'] or ''}{match['channel']}"
        if match["kind"] == "FileName" and folder in columns:
            kinds.setdefault("PathName", folder)
    return dict(sorted(images.items()))


def _channel(name: str) -> re.Match[str] | None:
    match = IMAGE.fullmatch(name)
    return None if match is None or NOT_CHANNELS.search(match["channel"]) else match


def _wells(location: str, frame: pd.DataFrame, root: str, sites: bool) -> pd.DataFrame:
    """Experiment, plate and well of every row, as text without blanks around; the site as an integer.

    Without a column of sites, the rows of each well are numbered from 1 as they come.
    """
    plate, site, batch = (_alias(frame, name) for name in ("plate", "site", "batch"))
    well = wells_of(frame, ALIASES["well"])
    needed = [plate, *(ALIASES["well"][:1] if well is None else ()), *([site] if sites and _has_sites(frame) else ())]
    require_columns(location, names(frame), needed)
    wells = frame[[ORIGIN]].assign(plate=frame[plate].str.strip(), well=well)
    require_cells(frame, [plate])
    require_cells(wells, ["well"])
    if sites:
        wells["site"] = integers(frame, site) if site in frame else wells.groupby(["plate", "well"]).cumcount() + 1
    folder = _batch_folder(location, root, wells["plate"].unique().tolist()) or wells["plate"]
    given = frame[batch].str.strip() if batch in frame else wells["plate"].str.slice(0, 0)
    return wells.assign(experiment=given.mask(given == "", folder))


def _has_sites(frame: pd.DataFrame) -> bool:
    """Whether a column seems to hold sites, by whatever name: it must not be passed over."""
    return any(re.search(r"site|field|fov", name, re.IGNORECASE) for name in names(frame) if not _channel(name))


def _batch_folder(location: str, root: str, plates: Iterable[str]) -> str:
    """The folder `<batch>` of `<batch>/<plate>/load_data.csv`, which may be the root; blank if there is none.

    For a table outside the root, `<plate>` must be the name of its only plate.
    """
    base = join(root, "")
    steps = location.split("/")
    if location.startswith(base):
        own = root.rstrip("/").rpartition("/")[2] if is_url(root) else Path(path_of(root)).resolve().name
        steps = [own, *location.removeprefix(base).split("/")]
    elif steps[-2:-1] != list(plates):
        return ""
    batch = steps[-3] if len(steps) >= 3 else ""
    return "" if batch.lower() in NOT_BATCHES else batch
