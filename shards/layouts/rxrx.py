"""Read the RxRx releases, each described by its column names, stains and image file names.

The descriptions follow the public READMEs (github.com/recursionpharma/rxrx-datasets) and the data card of RxRx3-core.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import find, is_folder, join, open_parquet, read_column, row_location, state
from shards.layouts.well_table import CHANNEL, LayoutOutput, names
from shards.tables.columns import (
    FAULT,
    ORIGIN,
    UNDESCRIBED,
    Pattern,
    fields_of,
    integers,
    require_cells,
    require_columns,
)
from shards.tables.read_tables import table_parts

if TYPE_CHECKING:
    import pandas as pd
    from pyarrow.parquet import ParquetFile

SIX_STAINS = ("Hoechst", "ConA", "Phalloidin", "Syto14", "MitoTracker", "WGA")
FIVE_STAINS = ("Hoechst", "ConA", "Phalloidin", "Syto14", "WGA")
MAX_KEY = 200
"""Characters of a key in a Parquet file."""
PATTERN = "{experiment}/Plate{plate}/{well}_s{site}_w{channel}.png"
KEY = re.compile(r"(?P<experiment>[^/]+)/Plate(?P<plate>[^/]+)/(?P<well>[A-Z]+\d+)_s(?P<site>\d+)_(?P<channel>\d+)")
WHERE = ["experiment", "plate", "well"]


@dataclass(frozen=True)
class Release:
    """How a release differs from the others: its names for our columns, and its stains, from w1 on."""

    columns: Mapping[str, str]
    stains: tuple[str, ...] = SIX_STAINS
    constants: Mapping[str, str] = field(default_factory=dict)  # describing columns that are the same in every row


WELL = {"well_id": "key", "experiment_name": "experiment", "address": "well"}
SITE = {"site_id": "key", "experiment": "experiment", "well": "well", "site": "site", "cell_type": "cell_type"}
DOSE = {"treatment": "treatment", "treatment_conc": "concentration"}
RXRX1 = Release({**SITE, "sirna": "treatment"}, constants={"perturbation_type": "SIRNA"})
RXRX2 = Release({**SITE, **DOSE}, constants={"perturbation_type": "SOLUBLE_FACTOR"})
RXRX19A = Release({**SITE, **DOSE, "SMILES": "SMILES"}, FIVE_STAINS, {"perturbation_type": "COMPOUND"})
RXRX19B = Release({**SITE, **DOSE, "SMILES": "SMILES"}, SIX_STAINS, {"perturbation_type": "COMPOUND"})
RXRX3 = Release({**WELL, **{name: name for name in ("gene", "treatment", "perturbation_type")}})


def read_rxrx(
    release: Release, root: str, *, metadata: str = "metadata.csv", images: str | None = None, pattern: str = PATTERN
) -> LayoutOutput:
    """Read a release: a metadata table and `[images/]<experiment>/Plate<k>/<well>_s<site>_w<channel>.png`.

    `images` is the folder of images, relative to the root (default: `images` if there is one, else the root), and
    `pattern` is how they are named below it, from the table's columns (under our names) and `{channel}`, from 1 on.
    """
    if images is None:
        images = "images" if is_folder(join(root, "images")) else ""
    if "channel" not in fields_of(pattern):
        raise LayoutError(f"pattern {pattern!r} names no {{channel}}")
    folder = join(root, images).rstrip("/") + "/"
    located = {
        stain: Pattern("{root}" + pattern, {"root": folder, "channel": str(number)})
        for number, stain in enumerate(release.stains, start=1)
    }
    wells = _metadata(join(root, metadata), release, fields_of(pattern) - {"channel"})
    return LayoutOutput(wells, located, own_keys=True)


def _metadata(location: str, release: Release, needed: Iterable[str] = ()) -> Iterator[pd.DataFrame]:
    """The metadata table under our column names, part by part; LayoutError if a `needed` column is absent.

    Controls have no gene: RxRx3 repeats the control's name there.
    """
    for part in table_parts(location, (*release.columns, "plate")):
        for theirs, ours in release.columns.items():
            if ours != theirs and ours in part:
                raise LayoutError(f"{location}, line 1: column {theirs!r} would become {ours!r}, which exists already")
        if images := [name for name in names(part) if name.startswith(CHANNEL)]:
            raise LayoutError(
                f"{location}, line 1: column {images[0]!r}: this layout finds the images itself: rename it"
            )
        constants = {name: text for name, text in release.constants.items() if name not in part}
        wells = part.rename(columns=dict(release.columns)).assign(**constants)
        require_cells(wells, ("key", "experiment", "plate", "well"))
        wells["site"] = integers(wells, "site") if "site" in wells else 1
        require_columns(location, names(wells), sorted(needed))
        if "gene" in wells:
            wells["gene"] = wells["gene"].mask(wells["gene"].str.endswith("_control"), "")
        yield wells


def read_rxrx3_core(
    root: str, *, metadata: str = "metadata_rxrx3_core.csv", images: str | None = None, column: str = "jp2",
    partial: str = "no",
) -> LayoutOutput:  # fmt: skip
    """Read RxRx3-core: Parquet files with one channel per row, `__key__` = `compound-001/Plate1/AA15_s1_1` and `jp2`.

    `images` is the folder of the Parquet files, relative to the root (default: the root and all below it). Wells of the
    metadata without images are an error, unless `partial=yes` says that only a part was downloaded.
    """
    if partial not in ("yes", "no"):
        raise LayoutError(f"option partial: expected yes or no, got {partial!r}")
    import pandas as pd

    left_out, location = list[str](), join(root, metadata)
    wells = pd.concat(_metadata(location, RXRX3)).set_index("key", drop=False)
    located = _parquet_images(join(root, images) if images else root, column, left_out)
    without = wells.loc[~wells.index.isin(located.index)]
    if len(without) and partial == "no":
        raise LayoutError(
            f"{without[ORIGIN].iloc[0]}: no images of well {without['key'].iloc[0]!r} ({len(without)} wells have "
            "none): give partial=yes if only a part of the Parquet files was downloaded"
        )
    stray = located.loc[~located.index.isin(wells.index)]
    unknown = "does not describe well '" + stray.index.to_series() + "', which has images"
    added = stray.assign(key=stray.index, site=1, **{ORIGIN: location}).assign(**{UNDESCRIBED: unknown})
    described = wells.assign(**{UNDESCRIBED: ""}).join(located.drop(columns=WHERE), how="inner")
    rows = pd.concat([described, added.reindex(columns=described.columns, fill_value="")], ignore_index=True)
    return LayoutOutput([rows], own_keys=True, notes=left_out)


def _parquet_images(folder: str, column: str, left_out: list[str]) -> pd.DataFrame:
    """WHERE, FAULT and the location of every channel, by well key, from the Parquet files below a folder."""
    import pandas as pd

    files = [file for file in find(folder, left_out) if file.endswith(".parquet")]
    parts = [part for file in files if (part := _file_images(file, column)) is not None]
    if others := len(files) - len(parts):
        left_out.append(f"{others} Parquet files below {folder} have no columns '__key__' and {column!r}")
    if not parts:
        raise LayoutError(f"{folder}: no Parquet file with the columns '__key__' and {column!r} below this folder")
    images = pd.concat(parts, ignore_index=True)
    repeated = images.duplicated(["key", "channel"])
    if repeated.any():
        first = images.loc[repeated].iloc[0]
        raise LayoutError(f"{first['location']}: a second image of channel {first['channel']} of well {first['key']!r}")
    wide = images.pivot(index="key", columns="channel", values="location")
    numbers = [str(number) for number in range(1, len(SIX_STAINS) + 1)]
    if list(wide.columns) != numbers:
        raise LayoutError(f"{folder}: channels {list(wide.columns)} instead of {numbers}")
    where = images.drop_duplicates("key").set_index("key")[WHERE]
    faults = pd.Series("", index=wide.index)
    for number in numbers:
        none = "no image of channel " + number + " of well '" + wide.index.to_series() + "'"
        faults = faults.mask((faults == "") & wide[number].isna(), none)
    located = wide.fillna("").set_axis([CHANNEL + stain for stain in SIX_STAINS], axis=1)
    return located.assign(**{FAULT: faults}).join(where)


def _file_images(file: str, column: str) -> pd.DataFrame | None:
    """Well key, channel and location of every row; None for a Parquet file without these columns."""
    import pandas as pd

    before = state(file)
    parquet, _ = open_parquet(file, before)
    if not {"__key__", column} <= set(parquet.schema_arrow.names):
        return None
    keys = pd.Series(list(_keys(file, parquet)), dtype=str)
    if state(file) != before:
        raise LayoutError(f"{file}: it changed while it was being read: run the same command again")
    fields = keys.str.extract(f"^{KEY.pattern}$")
    wrong = fields["well"].isna()
    if wrong.any():
        raise LayoutError(
            f"{file}, row {wrong.idxmax()}: key {keys[wrong].iloc[0]!r} is not like compound-001/Plate1/AA15_s1_1"
        )
    other_site = fields["site"] != "1"
    if other_site.any():
        raise LayoutError(f"{file}, row {other_site.idxmax()}: key {keys[other_site].iloc[0]!r} is of a second site")
    return pd.DataFrame({
        "key": fields["experiment"] + "_" + fields["plate"] + "_" + fields["well"],
        **{name: fields[name] for name in ("channel", *WHERE)},
        "location": [row_location(file, row, column) for row in range(len(fields))],
    })  # fmt: skip


def _keys(file: str, parquet: ParquetFile) -> Iterator[str]:
    """The `__key__` of every row of a Parquet file; LayoutError for one that is too long, or if they are damaged."""
    import pyarrow as pa

    try:
        for group in range(parquet.num_row_groups):
            for part in read_column(file, parquet, group, "__key__"):
                for key in map(str, part.to_pylist()):
                    if len(key) > MAX_KEY:
                        raise LayoutError(f"{file}: a key of {len(key)} characters; {MAX_KEY} are the limit")
                    yield key
    except pa.ArrowException as error:
        raise LayoutError(f"{file}: the keys cannot be read: {error}") from error
