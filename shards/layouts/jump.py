"""The `jump` layout: folders of Opera Phenix images, as JUMP-CP and the Cell Painting Gallery publish them.

Image folders are found anywhere below the root, by the names of the files in them, because the source folder's name
differs between laboratories. Channel numbers mean different stains in different laboratories too, so channel names come
from load_data.csv or from the user, and are never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import find, plane_files, planes_location
from shards.images.planes import Plane
from shards.layouts.keys import keys_of
from shards.layouts.load_data_tables import load_data_tables, read_load_data_table
from shards.layouts.plate_folders import MEASUREMENT, plate_folders
from shards.layouts.platemaps import LOAD_DATA, describe, describes, find_platemaps, perturbations
from shards.layouts.well_names import well_name
from shards.layouts.well_table import CHANNEL, LayoutOutput, names
from shards.tables.columns import ORIGIN, filled, parse_pairs

if TYPE_CHECKING:
    import pandas as pd

FILE = re.compile(
    r"r(?P<row>\d{1,4})c(?P<column>\d{1,4})f(?P<field>\d{1,6})p(?P<plane>\d{1,6})-ch(?P<channel>\d{1,4})sk\d+fk\d+fl\d+\.tiff?"
)
IMAGE = re.compile(r".+\.(tiff?|png|jpe?g|jp2|j2k|bmp|gif|npy|flex|czi|nd2|lif|c01|dib)", re.IGNORECASE)
"""Names of other images, which are counted."""

Stains = Mapping[tuple[str, str], Mapping[str, int]]
"""The channel number of each stain, by experiment and plate."""


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
    the plate is the nearest folder that can be a name (`plate_folders`), and without a batch folder the experiment is
    the plate.
    Channel names: `channels` (`ch1=Mito,ch2=AGP`, which also selects), else the `FileName_Orig<Name>` or
    `URL_Orig<Name>` columns of the plate's load_data table, else ch1, ch2 ...
    Perturbations: barcode_platemap.csv with its platemap/*.txt, else `Metadata_` columns of load_data tables, else the
    name of the folder that is the plate. An empty broad_sample is DMSO.
    Planes: where files differ in their p numbers, `plane` picks one or the maximum of all.
    The three tables are searched for below the root, or at the path (relative to the root) that an option gives.
    """
    import pandas as pd

    left_out = list[str]()
    folders = _image_folders(root, left_out)
    stains, described = _read_load_data(root, load_data_tables(root, load_data, left_out), left_out)
    described += find_platemaps(root, platemap, barcode_platemap, left_out)
    channel_names = parse_pairs(channels, "channels") if channels else None
    parts: list[pd.DataFrame] = []
    for folder, (experiment, plate, treatment) in plate_folders(root, folders).items():
        fields = _fields(folder, folders.pop(folder), plane)
        wells = fields.reset_index()[["well", "site"]].assign(experiment=experiment, plate=plate, treatment=treatment)
        numbers = _channel_numbers(folder, (experiment, plate), list(map(int, fields.columns)), channel_names, stains)
        parts.append(_located(folder, wells, fields, numbers))
        if unnamed := sorted(set(map(int, fields.columns)) - set(numbers.values())) if not channels else []:
            left_out.append(f"channels {unnamed} have no name in load_data.csv")
        if set(parts[0].columns) != set(parts[-1].columns):
            first, other = (_channels(part) for part in (parts[0], parts[-1]))
            raise LayoutError(f"{folder}: channels {other} differ from the first plate's, {first}")
    wells = pd.concat(parts, ignore_index=True)
    wells["key"] = keys_of("{plate}_{well}_f{site:02d}", wells)
    return LayoutOutput([describe(wells, described)], notes=left_out)


def _channels(wells: pd.DataFrame) -> list[str]:
    return [name.removeprefix(CHANNEL) for name in names(wells) if name.startswith(CHANNEL)]


def _image_folders(root: str, left_out: list[str]) -> dict[str, list[str]]:
    """Names of the images in each folder that has any."""
    folders: dict[str, list[str]] = {}
    others, first = 0, ""
    for location in find(root, left_out):
        folder, _, file = location.rpartition("/")
        if FILE.fullmatch(file):
            folders.setdefault(folder, []).append(file)
        elif IMAGE.fullmatch(file):
            others, first = others + 1, first or location
        elif MEASUREMENT.fullmatch(file):
            left_out.append(
                f"{location}: a file, not the folder of a measurement; is it a link that was copied as text?"
            )
    if others:
        left_out.append(f"{others} images are not named like r01c01f01p01-ch1sk1fk1fl1.tiff, such as {first}")
    if not folders:
        no_images = f"{root}: no images named like r01c01f01p01-ch1sk1fk1fl1.tiff below this folder"
        raise LayoutError("; ".join([no_images, *left_out[:3]]))
    return folders


def _fields(folder: str, files: list[str], plane: Plane | None) -> pd.DataFrame:
    """File of each image: a row per well and site (field), a column per channel number; see `_file`."""
    import pandas as pd

    files_of: dict[tuple[str, int, int], dict[int, str]] = {}
    for file in files:
        name = FILE.fullmatch(file)
        assert name is not None
        field = well_name(int(name["row"]), int(name["column"])), int(name["field"]), int(name["channel"])
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


def _located(folder: str, wells: pd.DataFrame, fields: pd.DataFrame, numbers: Mapping[str, int]) -> pd.DataFrame:
    """The rows of one folder with their origin and the location of each channel's image."""
    origins = filled("{folder}, well {well} field {site}", wells, {"folder": folder})
    wells = wells.assign(**{ORIGIN: origins})
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


def _read_load_data(
    root: str, paths: Iterable[str], left_out: list[str]
) -> tuple[dict[tuple[str, str], dict[str, int]], list[pd.DataFrame]]:
    """The channel number of each stain by experiment and plate, and the perturbations if the tables name them."""
    stains: dict[tuple[str, str], dict[str, int]] = {}
    described: list[pd.DataFrame] = []
    for path in paths:
        table = read_load_data_table(path, root, left_out, sites=False)
        places = table.wells[["experiment", "plate", ORIGIN]].to_numpy().tolist()
        for experiment, plate, _ in places:
            stains.setdefault((experiment, plate), {})
        for stain, columns in table.images.items():
            column = columns.get("FileName") or columns["URL"]
            files = table.frame[column].str.strip()
            if "Orig" not in column and not all(map(_name_of, filter(None, files))):
                left_out.append(f"{path}: column {column} does not name images of an Opera Phenix")
                continue
            for (experiment, plate, origin), file in zip(places, files, strict=True):
                numbers = stains[experiment, plate]
                if file and numbers.setdefault(stain, number := _channel(file, origin)) != number:
                    raise LayoutError(f"{origin}: plate {plate} has other channel numbers than in its rows before")
        if describes(table.frame):
            described.append(perturbations(table.frame, table.wells, LOAD_DATA))
    return stains, described


def _name_of(file: str) -> re.Match[str] | None:
    """The parts of the name of an image at a path of any machine."""
    return FILE.fullmatch(re.split(r"[/\\]", file)[-1])


def _channel(file: str, origin: str) -> int:
    name = _name_of(file)
    if name is None:
        raise LayoutError(f"{origin}: {file!r} is not named like r01c01f01p01-ch1sk1fk1fl1.tiff")
    return int(name["channel"])


def _stains_of(folder: str, place: tuple[str, str], stains: Stains) -> Mapping[str, int]:
    """The channel numbers of a plate: those of its experiment, else those of all plates of this name."""
    if place in stains:
        return stains[place]
    named = [numbers for (_, plate), numbers in stains.items() if plate == place[1]]
    if not named:
        described = [plate for _, plate in stains]
        raise LayoutError(f"{folder}: no load_data.csv describes plate {place[1]}; described: {described}")
    if any(numbers != named[0] for numbers in named):
        raise LayoutError(f"{folder}: plates called {place[1]} have several channel numbers in load_data.csv")
    return named[0]


def _channel_numbers(
    folder: str, place: tuple[str, str], present: list[int], channel_names: Mapping[str, str] | None, stains: Stains
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
    else:
        known = _stains_of(folder, place, stains) if stains else {}
        numbers = dict(known) or {f"ch{number}": number for number in present}
    for name, number in numbers.items():
        if number not in present:
            raise LayoutError(f"{folder}: no image of ch{number} ({name}); there are {present}")
    return dict(sorted(numbers.items(), key=lambda item: item[1]))
