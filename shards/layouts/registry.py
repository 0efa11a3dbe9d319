"""Layouts: how images and their metadata are stored on disk. Each reader turns a folder into one table of well images.

To add a layout, write a reader `(root, **options) -> LayoutOutput` whose options are keyword arguments that accept
text, and add it to LAYOUTS.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import is_folder, is_url, join
from shards.images.planes import Plane
from shards.layouts.folder import read_folder
from shards.layouts.jump import read_jump
from shards.layouts.load_data import read_load_data
from shards.layouts.row_faults import STRICT, Tolerance
from shards.layouts.rxrx import RXRX1, RXRX2, RXRX3, RXRX19A, RXRX19B, read_rxrx, read_rxrx3_core
from shards.layouts.well_table import LayoutOutput, WellTable, table_of
from shards.tables.columns import ORIGIN

if TYPE_CHECKING:
    import pandas as pd


LAYOUTS: dict[str, Callable[..., LayoutOutput]] = {
    "rxrx1": partial(read_rxrx, RXRX1),
    "rxrx2": partial(read_rxrx, RXRX2),
    "rxrx19a": partial(read_rxrx, RXRX19A),
    "rxrx19b": partial(read_rxrx, RXRX19B),
    "rxrx3": partial(read_rxrx, RXRX3),
    "rxrx3_core": read_rxrx3_core,
    "jump": read_jump,
    "load_data": read_load_data,
    "folder": read_folder,
}


def read_layout(
    layout: str, root: str | Path, folder: Path | None = None, plane: Plane | None = None,
    tolerance: Tolerance = STRICT, /, **options: str,
) -> WellTable:  # fmt: skip
    """Read `root`, a folder or a URL, by the layout of this name; rows go to a file without a name in `folder`.

    `plane` is for layouts that have a file for each plane of an image. `tolerance` says which faults of single rows are
    kept in the table instead of raised. Raises LayoutError for an unknown layout or option and for any other fault that
    the reader finds. Images are not opened (see `shards.layouts.well_table.check_images`).
    """
    root = str(root)
    if layout not in LAYOUTS:
        raise LayoutError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    if not is_url(root) and not is_folder(root):
        raise LayoutError(f"{root}: no such folder")
    parameters = inspect.signature(LAYOUTS[layout]).parameters
    known = [name for name in parameters if name not in ("root", "plane")]
    for name in options:
        if name not in known:
            raise LayoutError(f"layout {layout!r} has no option {name!r}; it has {', '.join(known) or 'none'}")
    try:
        output = LAYOUTS[layout](root, **options, **({"plane": plane} if "plane" in parameters else {}))
    except OSError as error:
        raise LayoutError(f"{root}: {error}") from error
    return table_of(replace(output, parts=_relative_origins(output.parts, root)), folder, tolerance)


def _relative_origins(parts: Iterable[pd.DataFrame], root: str) -> Iterator[pd.DataFrame]:
    """Make origins relative to the root: the set's table has them, and must not depend on where the images are."""
    above = join(root, "").rstrip("/") + "/"
    for part in parts:
        yield part.assign(**{ORIGIN: part[ORIGIN].str.removeprefix(above)})
