"""The `jump` layout: folders of Opera Phenix images, as JUMP-CP and the Cell Painting Gallery publish them.

Image folders are found anywhere below the root, by the names of the files in them, because the source folder's name
differs from one laboratory to the next. Channel numbers mean different stains in different laboratories too, so channel
names come from load_data.csv or from the user, and are never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shards.wells import LayoutError, WellTable, names, parse_pairs, read_csv, records, require_columns

FILE = re.compile(r"r(?P<row>\d+)c(?P<column>\d+)f(?P<field>\d+)p\d+-ch(?P<channel>\d+)sk\d+fk\d+fl\d+\.tiff?")
MEASUREMENT = re.compile(r"(?P<plate>.+)__.+-Measurement\s?\d+")
ORIGINAL = re.compile(r"(FileName|URL)_Orig(?P<stain>.+)")
UNSAFE = re.compile(r"[^A-Za-z0-9_+-]")

TREATMENT_COLUMNS = ("broad_sample", "treatment", "pert_iname")
GENE_COLUMNS = ("gene", "Gene")
TYPE_COLUMNS = ("perturbation_type", "pert_type")


@dataclass(frozen=True)
class _Folder:
    """One folder of images: the plate they belong to, and each field's files by (well, site) and channel number."""

    path: Path
    experiment: str
    plate: str
    treatment: str
    fields: dict[tuple[str, int], dict[int, Path]]


@dataclass(frozen=True)
class _Perturbation:
    treatment: str = ""
    gene: str = ""
    perturbation_type: str = ""


def read_jump(
    root: Path,
    *,
    channels: str | Mapping[str, str] | None = None,
    load_data: str | None = None,
    platemap: str | None = None,
    barcode_platemap: str | None = None,
) -> WellTable:
    """Read Opera Phenix images, one row per field of view.

    Plate and experiment: `<batch>/images/<plate>__<time>-Measurement1/Images` gives both; without a measurement folder
    the plate is the image folder's name, and without a batch folder the experiment is the plate.
    Channel names: `channels` (`ch1=Mito,ch2=AGP`, which also selects), else the `FileName_Orig<Name>` or
    `URL_Orig<Name>` columns of the plate's load_data.csv[.gz], else ch1, ch2 ...
    Perturbations: barcode_platemap.csv with its platemap/*.txt, else `Metadata_` columns of load_data.csv, else the
    image folder's name. An empty broad_sample is DMSO.
    The three tables are looked for below the root; an option (a path, relative to the root) says where else.
    """
    folders = list(_image_folders(root))
    if not folders:
        raise LayoutError(f"{root}: no images named like r01c01f01p01-ch1sk1fk1fl1.tiff below this folder")
    tables = _find(root, load_data, "load_data.csv", "load_data.csv.gz")
    stains, described = _read_load_data(tables)
    described |= _read_platemaps(root, platemap, _find(root, barcode_platemap, "barcode_platemap.csv"))
    given = parse_pairs(channels, "channels") if isinstance(channels, str) else channels
    numbers = {folder.path: _channel_numbers(folder, given, stains) for folder in folders}
    stain_names = tuple(numbers[folders[0].path])
    rows = [row for folder in folders for row in _rows(folder, stain_names, numbers[folder.path], described)]
    import pandas as pd

    return WellTable(pd.DataFrame(rows), stain_names)


def _image_folders(root: Path) -> Iterator[_Folder]:
    for path in sorted({file.parent for file in root.rglob("*.tif*") if FILE.fullmatch(file.name)}):
        fields: dict[tuple[str, int], dict[int, Path]] = {}
        for file in sorted(path.iterdir()):
            if name := FILE.fullmatch(file.name):
                files = fields.setdefault((_well(int(name["row"]), int(name["column"])), int(name["field"])), {})
                other = files.setdefault(int(name["channel"]), file)
                if other != file:
                    raise LayoutError(f"{file}: the same field and channel as {other.name}; one plane each is needed")
        experiment, plate, treatment = _plate(path)
        yield _Folder(path, experiment, plate, treatment, fields)


def _plate(path: Path) -> tuple[str, str, str]:
    """Experiment, plate and treatment as far as the folder's own path tells them."""
    path = path.resolve()
    measurement = MEASUREMENT.fullmatch(path.parent.name)
    if measurement is None:
        return path.name, path.name, path.name
    within_batch = path.parents[1].name == "images"
    plate = measurement["plate"]
    return path.parents[2].name if within_batch else plate, plate, ""


def _well(row: int, column: int) -> str:
    """Well name of a 1-based row and column: (1, 1) is A01, (27, 1) is AA01."""
    letters = ""
    while row:
        row, letter = divmod(row - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"{letters}{column:02d}"


def _find(root: Path, given: str | None, *names: str) -> list[Path]:
    """Files of these names below the root, or below (or at) the path that was given instead."""
    place = root / given if given else root
    if place.is_file():
        return [place]
    found = sorted(file for file in place.rglob("*") if file.name in names) if place.is_dir() else []
    if given and not found:
        raise LayoutError(f"{place}: no {names[0]} here")
    return found


def _read_load_data(
    paths: Iterable[Path],
) -> tuple[dict[str, dict[str, int]], dict[tuple[str, str], _Perturbation]]:
    """Per plate the channel number of each stain, and per (plate, well) the perturbation if the table names one."""
    stains: dict[str, dict[str, int]] = {}
    described: dict[tuple[str, str], _Perturbation] = {}
    for path in paths:
        table = read_csv(path, ("Metadata_Plate", "Metadata_Well"))
        originals = {match["stain"]: match.string for column in names(table) if (match := ORIGINAL.fullmatch(column))}
        for row in records(table):
            plate = row["Metadata_Plate"]
            numbers = {stain: _channel(row[column], row["origin"]) for stain, column in originals.items()}
            if stains.setdefault(plate, numbers) != numbers:
                raise LayoutError(f"{row['origin']}: plate {plate} has other channel numbers than in its rows before")
            known = {name.removeprefix("Metadata_"): text for name, text in row.items()}
            if any(column in known for column in TREATMENT_COLUMNS):
                described[plate, row["Metadata_Well"]] = _perturbation(known)
    return stains, described


def _channel(file: str, origin: str) -> int:
    name = FILE.fullmatch(file.rpartition("/")[2])
    if name is None:
        raise LayoutError(f"{origin}: {file!r} is not named like r01c01f01p01-ch1sk1fk1fl1.tiff")
    return int(name["channel"])


def _read_platemaps(root: Path, given: str | None, barcodes: Iterable[Path]) -> dict[tuple[str, str], _Perturbation]:
    """Perturbation of each (plate, well), from the barcode table and the plate maps it names."""
    described: dict[tuple[str, str], _Perturbation] = {}
    for path in barcodes:
        folder = root / given if given else path.parent / "platemap"
        for row in records(read_csv(path, ("Assay_Plate_Barcode", "Plate_Map_Name"))):
            source = folder if folder.is_file() else folder / f"{row['Plate_Map_Name']}.txt"
            if not source.is_file():
                raise LayoutError(f"{row['origin']}: plate map {source} does not exist")
            platemap = read_csv(source, ("well_position",), separator="\t")
            if not any(column in platemap for column in TREATMENT_COLUMNS):
                require_columns(source, names(platemap), TREATMENT_COLUMNS[:1])
            for well in records(platemap):
                described[row["Assay_Plate_Barcode"], well["well_position"]] = _perturbation(well)
    return described


def _perturbation(row: Mapping[str, str]) -> _Perturbation:
    def first(columns: Iterable[str]) -> str:
        return next((row[column] for column in columns if column in row), "")

    return _Perturbation(first(TREATMENT_COLUMNS) or "DMSO", first(GENE_COLUMNS), first(TYPE_COLUMNS))


def _channel_numbers(
    folder: _Folder, given: Mapping[str, str] | None, stains: Mapping[str, Mapping[str, int]]
) -> dict[str, int]:
    """Channel number of each channel name on this folder's plate, in order of the number."""
    present = sorted({number for files in folder.fields.values() for number in files})
    if given is not None:
        numbers = {
            name: int(label.removeprefix("ch")) for label, name in given.items() if re.fullmatch(r"ch\d+", label)
        }
        if len(numbers) != len(given):
            raise LayoutError(f"option channels: expected ch1=Name,ch2=Name with each name once, got {dict(given)}")
    elif stains and folder.plate not in stains:
        raise LayoutError(f"{folder.path}: no load_data.csv describes plate {folder.plate}; described: {list(stains)}")
    else:
        numbers = dict(stains.get(folder.plate, {})) or {f"ch{number}": number for number in present}
    for name, number in numbers.items():
        if number not in present:
            raise LayoutError(f"{folder.path}: no image of ch{number} ({name}); there are {present}")
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def _rows(
    folder: _Folder,
    stain_names: tuple[str, ...],
    numbers: Mapping[str, int],
    described: Mapping[tuple[str, str], _Perturbation],
) -> Iterator[dict[str, object]]:
    if set(numbers) != set(stain_names):
        raise LayoutError(f"{folder.path}: channels {list(numbers)} differ from the first plate's, {list(stain_names)}")
    for (well, site), files in folder.fields.items():
        known = described.get((folder.plate, well))
        if known is None and described:
            raise LayoutError(f"{folder.path}: no plate map or load_data.csv describes well {well} of {folder.plate}")
        known = known or _Perturbation(folder.treatment)
        yield {
            "key": f"{UNSAFE.sub('-', folder.plate)}_{well}_f{site:02d}",
            "experiment": folder.experiment,
            "plate": folder.plate,
            "well": well,
            "site": site,
            "gene": known.gene,
            "treatment": known.treatment,
            "perturbation_type": known.perturbation_type,
            "images": tuple(_file(files, numbers[name]) for name in stain_names),
            "origin": f"{folder.path}, well {well} field {site}",
        }


def _file(files: Mapping[int, Path], number: int) -> Path:
    """The file of this channel; where the field lacks it, the path at which it ought to be."""
    sibling = next(iter(files.values()))
    return files.get(number, sibling.with_name(re.sub(r"-ch\d+", f"-ch{number}", sibling.name)))
