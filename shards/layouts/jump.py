"""The `jump` layout: folders of Opera Phenix images, as JUMP-CP and the Cell Painting Gallery publish them.

Image folders are found anywhere below the root, by the names of the files in them, because the source folder's name
differs between laboratories. Channel numbers mean different stains in different laboratories too, so channel names come
from load_data.csv or from the user, and are never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import find, is_url, plane_files, planes_location
from shards.images.planes import Plane
from shards.layouts.platemaps import describe, describes, find_tables, perturbations, read_platemaps
from shards.layouts.well_table import CHANNEL, LayoutOutput, names, safe_key
from shards.tables.csv_tables import filled, parse_pairs, read_csv

if TYPE_CHECKING:
    import pandas as pd

FILE = re.compile(
    r"r(?P<row>\d{1,4})c(?P<column>\d{1,4})f(?P<field>\d{1,6})p(?P<plane>\d{1,6})-ch(?P<channel>\d{1,4})sk\d+fk\d+fl\d+\.tiff?"
)
MEASUREMENT = re.compile(r"(?P<plate>.+)__.+-Measurement\s?\d+")
ORIGINAL = re.compile(r"(FileName|URL)_Orig(?P<stain>.+)")

Stains = Mapping[str, Mapping[str, int]]
"""The channel number of each stain, by plate."""


def read_jump(
    root: str,
    *,
    channels: str | None = None,
    load_data: str | None = None,
    platemap: str | None = None,
    barcode_platemap: str | None = None,
    plane: Plane | None = None,
) -> LayoutOutput:
    """Read Opera Phenix images, one row per field of view.

    Plate and experiment: `<batch>/images/<plate>__<time>-Measurement1/Images` gives both; without a measurement folder
    the plate is the image folder's name, and without a batch folder the experiment is the plate.
    Channel names: `channels` (`ch1=Mito,ch2=AGP`, which also selects), else the `FileName_Orig<Name>` or
    `URL_Orig<Name>` columns of the plate's load_data.csv[.gz], else ch1, ch2 ...
    Perturbations: barcode_platemap.csv with its platemap/*.txt, else `Metadata_` columns of load_data.csv, else the
    image folder's name. An empty broad_sample is DMSO.
    Planes: where files differ in their p numbers, `plane` picks one or the maximum of all.
    The three tables are searched for below the root, or at the path (relative to the root) that an option gives.
    """
    folders = _image_folders(root)
    stains, described = _read_load_data(find_tables(root, load_data, "load_data.csv", "load_data.csv.gz"))
    described += read_platemaps(root, platemap, find_tables(root, barcode_platemap, "barcode_platemap.csv"))
    channel_names = parse_pairs(channels, "channels") if channels else None
    import pandas as pd

    parts: list[pd.DataFrame] = []
    for folder in sorted(folders):
        parts.append(_wells(folder, _fields(folder, folders.pop(folder), plane), channel_names, stains))
        if set(parts[0].columns) != set(parts[-1].columns):
            first, other = (_channels(part) for part in (parts[0], parts[-1]))
            raise LayoutError(f"{folder}: channels {other} differ from the first plate's, {first}")
    wells = pd.concat(parts, ignore_index=True)
    wells["key"] = [safe_key(key) for key in filled("{plate}_{well}_f{site:02d}", wells, {})]
    return LayoutOutput([describe(wells, described)])


def _channels(wells: pd.DataFrame) -> list[str]:
    return [name.removeprefix(CHANNEL) for name in names(wells) if name.startswith(CHANNEL)]


def _image_folders(root: str) -> dict[str, list[str]]:
    """Names of the images in each folder that has any."""
    folders: dict[str, list[str]] = {}
    for location in find(root):
        folder, _, file = location.rpartition("/")
        if FILE.fullmatch(file):
            folders.setdefault(folder, []).append(file)
    if not folders:
        raise LayoutError(f"{root}: no images named like r01c01f01p01-ch1sk1fk1fl1.tiff below this folder")
    return folders


def _fields(folder: str, files: list[str], plane: Plane | None) -> pd.DataFrame:
    """File of each image: a row per well and site (field), a column per channel number; see `_file`."""
    import pandas as pd

    files_of: dict[tuple[str, int, int], dict[int, str]] = {}
    for file in files:
        name = FILE.fullmatch(file)
        assert name is not None
        field = _well(int(name["row"]), int(name["column"])), int(name["field"]), int(name["channel"])
        planes = files_of.setdefault(field, {})
        if (first := planes.setdefault(int(name["plane"]), file)) != file:
            raise LayoutError(f"{folder}/{file}: the same field, channel and plane as {first}; one image is needed")
    chosen = _planes(folder, files_of.values(), plane)
    images = pd.DataFrame(
        [(*field, _file(planes, chosen)) for field, planes in files_of.items()],
        columns=["well", "site", "channel", "file"],
    )
    return images.pivot(index=["well", "site"], columns="channel", values="file")


def _planes(folder: str, images: Collection[Mapping[int, str]], plane: Plane | None) -> list[int]:
    """The p numbers that are wanted of every image; none if p numbers do not say what is a plane."""
    present = sorted(set().union(*images))
    if plane is None:
        if several := next((list(files.values()) for files in images if len(files) > 1), None):
            raise LayoutError(
                f"{folder}/{several[1]}: another plane of {several[0]}; there are {len(present)}: "
                "choose one with --plane N, or their maximum with --plane max"
            )
        return []
    if present == [1]:
        return []  # the files themselves may hold several
    if plane != "max" and plane not in present:
        raise LayoutError(
            f"{folder}: no image of plane {plane}; there are {len(present)} planes, from {present[0]} to {present[-1]}"
        )
    return present if plane == "max" else [plane]


def _file(planes: Mapping[int, str], chosen: Sequence[int]) -> str:
    """The only file of an image, or those of its planes; where it has no such file, the name that it should have."""
    any_file = next(iter(planes.values()))
    if not chosen:
        return any_file
    return planes_location(planes.get(number, re.sub(r"p\d+-", f"p{number:02d}-", any_file)) for number in chosen)


def _location(folder: str, file: str) -> str:
    """The location of what `_file` names."""
    files = plane_files(file)
    return planes_location(f"{folder}/{name}" for name in files) if files else f"{folder}/{file}"


def _well(row: int, column: int) -> str:
    """Well name of a 1-based row and column: (1, 1) is A01, (27, 1) is AA01."""
    letters = ""
    while row:
        row, letter = divmod(row - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"{letters}{column:02d}"


def _plate(folder: str) -> tuple[str, str, str]:
    """Experiment, plate and treatment, as far as the folder's path gives them."""
    steps = (folder if is_url(folder) else str(Path(folder).resolve())).split("/")
    above, batch_images, measured, own = ["", "", "", *steps][-4:]
    measurement = MEASUREMENT.fullmatch(measured)
    if measurement is None:
        return own, own, own
    plate = measurement["plate"]
    return (above if batch_images == "images" else plate), plate, ""


def _wells(folder: str, fields: pd.DataFrame, channel_names: Mapping[str, str] | None, stains: Stains) -> pd.DataFrame:
    """The rows of one folder, under our column names."""
    experiment, plate, treatment = _plate(folder)
    numbers = _channel_numbers(folder, plate, [int(number) for number in fields.columns], channel_names, stains)
    wells = fields.reset_index()[["well", "site"]].assign(experiment=experiment, plate=plate, treatment=treatment)
    wells["origin"] = filled("{folder}, well {well} field {site}", wells, {"folder": folder})
    for name, number in numbers.items():
        wells[CHANNEL + name] = [_location(folder, file) for file in _files(fields, number)]
    return wells


def _files(fields: pd.DataFrame, number: int) -> list[str]:
    """The files of a channel; where a field has no such file, the name that it should have."""
    files = fields[number].tolist()
    for row in fields[number].isna().to_numpy().nonzero()[0].tolist():
        sibling = str(fields.iloc[row].dropna().iloc[0])
        files[row] = re.sub(r"-ch\d+", f"-ch{number}", sibling)
    return files


def _read_load_data(paths: Iterable[str]) -> tuple[dict[str, dict[str, int]], list[pd.DataFrame]]:
    """The channel number of each stain by plate, and the perturbations if the tables name them."""
    stains: dict[str, dict[str, int]] = {}
    described: list[pd.DataFrame] = []
    for path in paths:
        table = read_csv(path, ("Metadata_Plate", "Metadata_Well"))
        originals = {match["stain"]: match.string for column in names(table) if (match := ORIGINAL.fullmatch(column))}
        for plate, origin, *files in table[["Metadata_Plate", "origin", *originals.values()]].to_numpy().tolist():
            numbers = {stain: _channel(file, origin) for stain, file in zip(originals, files, strict=True)}
            if stains.setdefault(plate, numbers) != numbers:
                raise LayoutError(f"{origin}: plate {plate} has other channel numbers than in its rows before")
        table = table.rename(columns=lambda name: name.removeprefix("Metadata_")).rename(
            columns={"Plate": "plate", "Well": "well"}
        )
        if describes(table):
            described.append(perturbations(table))
    return stains, described


def _channel(file: str, origin: str) -> int:
    name = FILE.fullmatch(file.rpartition("/")[2])
    if name is None:
        raise LayoutError(f"{origin}: {file!r} is not named like r01c01f01p01-ch1sk1fk1fl1.tiff")
    return int(name["channel"])


def _channel_numbers(
    folder: str, plate: str, present: list[int], channel_names: Mapping[str, str] | None, stains: Stains
) -> dict[str, int]:
    """Channel number of each channel name on this folder's plate, in order of the number."""
    if channel_names is not None:
        numbers = {
            name: int(label.removeprefix("ch"))
            for label, name in channel_names.items()
            if re.fullmatch(r"ch\d{1,4}", label)
        }
        if len(numbers) != len(channel_names):
            raise LayoutError(
                f"option channels: expected ch1=Name,ch2=Name with each name once, got {dict(channel_names)}"
            )
    elif stains and plate not in stains:
        raise LayoutError(f"{folder}: no load_data.csv describes plate {plate}; described: {list(stains)}")
    else:
        numbers = dict(stains.get(plate, {})) or {f"ch{number}": number for number in present}
    for name, number in numbers.items():
        if number not in present:
            raise LayoutError(f"{folder}: no image of ch{number} ({name}); there are {present}")
    return dict(sorted(numbers.items(), key=lambda item: item[1]))
