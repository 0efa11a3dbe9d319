"""Layouts: how images and their metadata lie on disk. Each reader turns a folder into one table of well images.

To add a layout, write a reader `(root, **options) -> WellTable` whose options are keyword arguments that accept text,
and name it in LAYOUTS.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shards.opera import read_jump
from shards.wells import LayoutError, WellTable, names, read_csv, records, require_cells, require_columns, with_images

if TYPE_CHECKING:
    import pandas as pd

RXRX3_CHANNELS = ("Hoechst", "ConA", "Phalloidin", "Syto14", "MitoTracker", "WGA")
"""RxRx3's stains, w1 to w6."""

CHANNEL_COLUMN = "channel:"


def read_rxrx3(root: Path, *, metadata: str = "metadata.csv") -> WellTable:
    """Read RxRx3: `metadata.csv` and `[images/]<experiment>/Plate<k>/<address>_s1_w<c>.png`.

    Controls carry no gene: RxRx3 repeats the control's name there, which would otherwise pass for a gene.
    """
    named = {"well_id": "key", "experiment_name": "experiment", "address": "well"}
    required = (*named, "plate", "gene", "treatment", "perturbation_type")
    wells = read_csv(root / metadata, required).rename(columns=named)
    require_cells(wells, ("key", "experiment", "plate", "well"))
    images = root / "images" if (root / "images").is_dir() else root
    wells["site"] = 1
    wells["gene"] = wells["gene"].mask(wells["gene"].str.endswith("_control"), "")
    files = [
        tuple(images / experiment / f"Plate{plate}" / f"{well}_s1_w{c + 1}.png" for c in range(len(RXRX3_CHANNELS)))
        for experiment, plate, well in zip(wells["experiment"], wells["plate"], wells["well"], strict=True)
    ]
    return WellTable(with_images(wells, files), RXRX3_CHANNELS)


def read_folder(
    root: Path, *, table: str = "wells.csv", pattern: str | None = None, channels: str | None = None
) -> WellTable:
    """Read a plain folder described by a CSV table with at least the columns experiment, plate and well.

    Images are named either by one column per channel, `channel:<name>`, or by `pattern` over the table's columns and
    `{channel}`, for the comma-separated `channels`. Paths are relative to `root`. Optional columns: key (default
    `<experiment>_<plate>_<well>_<site>`), site (default 1), gene, treatment, perturbation_type; others are kept as
    metadata.
    """
    path = root / table
    wells = read_csv(path, ("experiment", "plate", "well"))
    require_cells(wells, ("experiment", "plate", "well"))
    wells["site"] = _sites(wells)
    channel_names, images = _pattern_images(path, wells, pattern, channels) if pattern else _column_images(path, wells)
    for column in ("gene", "treatment", "perturbation_type"):
        if column not in wells:
            wells[column] = ""
    if "key" not in wells:
        wells["key"] = [f"{e}_{p}_{w}_{s}" for e, p, w, s in wells[["experiment", "plate", "well", "site"]].to_numpy()]
    files = [tuple(root / name for name in row) for row in images]
    wells = wells.drop(columns=[name for name in names(wells) if name.startswith(CHANNEL_COLUMN)])
    return WellTable(with_images(wells, files), channel_names)


def _sites(wells: pd.DataFrame) -> list[int]:
    if "site" not in wells:
        return [1] * len(wells)
    for site, origin in zip(wells["site"], wells["origin"], strict=True):
        if not site.strip().isdecimal():
            raise LayoutError(f"{origin}: site {site!r} is not a whole number")
    return [int(site) for site in wells["site"]]


def _column_images(path: Path, wells: pd.DataFrame) -> tuple[tuple[str, ...], list[list[str]]]:
    columns = [name for name in names(wells) if name.startswith(CHANNEL_COLUMN)]
    if not columns:
        raise LayoutError(f"{path}, line 1: no column '{CHANNEL_COLUMN}<name>', and no pattern and channels were given")
    require_cells(wells, columns)
    return tuple(name.removeprefix(CHANNEL_COLUMN) for name in columns), wells[columns].to_numpy().tolist()


def _pattern_images(
    path: Path, wells: pd.DataFrame, pattern: str, channels: str | None
) -> tuple[tuple[str, ...], list[list[str]]]:
    if not channels:
        raise LayoutError("option pattern also needs channels, such as channels=DNA,ER")
    fields = {field for _, field, _, _ in string.Formatter().parse(pattern) if field is not None}
    if "channel" not in fields:
        raise LayoutError(f"pattern {pattern!r} names no {{channel}}")
    require_columns(path, names(wells), sorted(fields - {"channel"}))
    given = tuple(name.strip() for name in channels.split(","))
    return given, [[pattern.format(**{**row, "channel": name}) for name in given] for row in records(wells)]


LAYOUTS: dict[str, Callable[..., WellTable]] = {"rxrx3": read_rxrx3, "jump": read_jump, "folder": read_folder}


def read_layout(layout: str, root: Path, **options: str) -> WellTable:
    """Read `root` by the layout of this name.

    Raises LayoutError for an unknown layout or option and for whatever the layout's reader finds wrong. Image files are
    named here but not opened (see `shards.wells.check_images`).
    """
    if layout not in LAYOUTS:
        raise LayoutError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise LayoutError(f"{root}: no such folder")
    known = [name for name in inspect.signature(LAYOUTS[layout]).parameters if name != "root"]
    for name in options:
        if name not in known:
            raise LayoutError(f"layout {layout!r} has no option {name!r}; it has {', '.join(known) or 'none'}")
    table = LAYOUTS[layout](root, **options)
    # Origins end up in the shards: what they say must not depend on where the images lay.
    origin = table.wells["origin"].str.removeprefix(f"{root}/")
    return WellTable(table.wells.assign(origin=origin), table.channels)
