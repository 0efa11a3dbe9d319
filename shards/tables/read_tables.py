"""Read tables of any format as columns of text: Parquet by its first bytes, everything else as CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import find, is_file, join, open_file
from shards.tables.csv_tables import csv_parts
from shards.tables.parquet_tables import MAGIC, parquet_parts

if TYPE_CHECKING:
    import pandas as pd

TABLE = re.compile(r"\.(csv|tsv|txt|parquet|pq|xlsx?)(\.(gz|bz2|xz|zst|zip))?", re.IGNORECASE)
"""How the name of a table ends, or of a copy of it."""
MAX_IN_MEMORY = 1 << 31
"""Characters of the cells of a table that is read in one."""


def table_parts(location: str, required: Iterable[str] = (), known: Iterable[str] = ()) -> Iterator[pd.DataFrame]:
    """The parts of a table (`csv_parts`, `parquet_parts`); LayoutError as these raise it."""
    return parquet_parts(location, required) if _is_parquet(location) else csv_parts(location, required, known)


def read_table(location: str, required: Iterable[str] = (), known: Iterable[str] = ()) -> pd.DataFrame:
    """Read a complete table: the parts of `table_parts` in one; LayoutError for more than MAX_IN_MEMORY."""
    import pandas as pd

    parts, left = list[pd.DataFrame](), MAX_IN_MEMORY
    for part in table_parts(location, required, known):
        left -= sum(int(part[name].str.len().sum()) for name in part)
        if left < 0:
            raise LayoutError(f"{location}: more than {MAX_IN_MEMORY} characters; split the table")
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _is_parquet(location: str) -> bool:
    try:
        with open_file(location) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False  # which reading it as CSV will report


def find_tables(root: str, option: str | None, name: re.Pattern[str], left_out: list[str], stem: str) -> list[str]:
    """Files below the root with a name of this pattern; or, if an option names a folder or a file, below or at that.

    `left_out` receives what cannot be listed, and other tables that have `stem` in their names.
    LayoutError if nothing is at the place that the option names.
    """
    location = join(root, option) if option else root
    if option and is_file(location):
        return [location]
    files = list[str]()
    for file in find(location, left_out):
        own = file.rpartition("/")[2]
        if name.fullmatch(own):
            files.append(file)
        elif stem in own.lower() and TABLE.search(own):
            left_out.append(f"{file}: not read, as only tables with the exact name of a {stem} table are")
    if option and not files:
        raise LayoutError(f"{location}: no table named like {name.pattern} in this folder")
    return files
