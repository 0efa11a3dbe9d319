"""Which plate a folder of Opera Phenix images is of: the nearest folder whose name can be a plate's.

<batch>/images/<plate>__<time>-Measurement 1/Images      as the microscope exports it, in the Cell Painting Gallery
<batch>/images/<plate>/Images                            a renamed measurement
<plate>/hs/<identifier>/images                           an archive of Harmony
<plate>                                                  a plain folder
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from shards.errors import LayoutError
from shards.images.locations import is_url, join, path_of

MEASUREMENT = re.compile(r"(?P<plate>.+)__(.+-)?Measurement[\s_-]?\d+.*", re.IGNORECASE)
IDENTIFIER = re.compile(r"\{?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}?", re.IGNORECASE)
NO_NAMES = {"images", "image", "img", "imgs", "tif", "tiff", "tiffs"}
ARCHIVE = "hs"


class PlateFolder(NamedTuple):
    """What the path of a folder says; the treatment is blank for a measurement, which is never named for one."""

    experiment: str
    plate: str
    treatment: str


def plate_folders(root: str, folders: Iterable[str]) -> dict[str, PlateFolder]:
    """The plate of each folder below a root, in order; LayoutError for one without a name.

    An identifier is the plate if several measurements of one archive are there.
    """
    folders = sorted(folders)
    above = root.rstrip("/") if is_url(root) else str(path_of(root).resolve())
    prefix = join(root, "")
    steps = {folder: f"{above}/{f'{folder}/'.removeprefix(prefix)}".strip("/").split("/") for folder in folders}
    archives = Counter(archive for path in steps.values() if (archive := _archive(path)))
    return {folder: _plate_folder(folder, path, archives) for folder, path in steps.items()}


def _named(steps: list[str]) -> list[str]:
    """The steps to a folder without the last ones that are no names, such as `Images`."""
    while steps and steps[-1].lower() in NO_NAMES:
        steps = steps[:-1]
    return steps


def _archive(steps: list[str]) -> tuple[str, ...]:
    """The folder `hs` in which a folder's measurement is; empty if it is in none."""
    steps = _named(steps)
    in_archive = len(steps) > 1 and IDENTIFIER.fullmatch(steps[-1]) and steps[-2].lower() == ARCHIVE
    return tuple(steps[:-1]) if in_archive else ()


def _plate_folder(folder: str, steps: list[str], archives: Counter[tuple[str, ...]]) -> PlateFolder:
    plain, archive = _named(steps), _archive(steps)
    for measured in ([*steps[:-1]], plain if len(plain) < len(steps) else []):
        *_, batch, images, name = ["", "", "", *measured]
        if measurement := MEASUREMENT.fullmatch(name):
            plate = measurement["plate"]
            return PlateFolder((batch if images == "images" else "") or plate, plate, "")
    if archive and archives[archive] == 1:
        plain = _named(list(archive[:-1]))
    if not plain:
        raise LayoutError(f"{folder}: no folder above can be the name of a plate: put it into a folder of that name")
    *_, batch, images, own = ["", "", *plain]
    in_batch = images == "images" and len(plain) < len(steps)
    return PlateFolder((batch if in_batch else "") or own, own, own)
