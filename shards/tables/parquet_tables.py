"""Read Parquet tables as columns of text, like CSV tables, with the number of every row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from shards.errors import LayoutError
from shards.images.locations import open_parquet, read_column, state
from shards.tables.columns import ORIGIN, check_columns
from shards.tables.mapped_rows import PART_ROWS

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

MAGIC = b"PAR1"


def parquet_parts(location: str, required: Iterable[str] = ()) -> Iterator[pd.DataFrame]:
    """Read a Parquet table as text, PART_ROWS rows at a time; at least one part, which may have no rows.

    Text stays as it is; whole numbers have no decimals, also where missing values made a column floating (`1.0` is
    `1`); missing values are blank; named levels of an index are columns. ORIGIN is the file and row, from 0. Raises
    LayoutError for a damaged file, one that changes while it is read, or a repeated, reserved or absent column.
    """
    import pyarrow as pa

    before = state(location)
    try:
        parquet, begins = open_parquet(location, before)
        check_columns(location, parquet.schema_arrow.names, required)
        if not parquet.num_row_groups:
            yield _text_frame(location, 0, {name: pa.array([], pa.string()) for name in parquet.schema_arrow.names})
        for group in range(parquet.num_row_groups):
            yield from _group_parts(location, parquet, group, begins[group])
    except (OSError, pa.ArrowException) as error:
        raise LayoutError(f"{location}: not a readable table: {error}") from error
    if state(location) != before:
        raise LayoutError(f"{location}: it changed while it was being read: run the same command again")


def _group_parts(location: str, parquet: ParquetFile, group: int, first: int) -> Iterator[pd.DataFrame]:
    """The rows of a row group; `first` is the number of its first row."""
    import pyarrow as pa

    names = parquet.schema_arrow.names
    types = {name: parquet.schema_arrow.field(name).type for name in names}
    read = {name: list(read_column(location, parquet, group, name)) for name in names}
    columns = {name: pa.chunked_array(parts or [pa.array([], types[name])]) for name, parts in read.items()}
    rows = parquet.metadata.row_group(group).num_rows
    for begin in range(0, max(1, rows), PART_ROWS):
        part = {name: column.slice(begin, PART_ROWS) for name, column in columns.items()}
        yield _text_frame(location, first + begin, part)


def _text_frame(location: str, first: int, columns: dict[str, pa.Array]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(
        {name: pd.Series(list(map(_text, cells.to_pylist())), dtype=str) for name, cells in columns.items()}
    )
    return table.assign(**{ORIGIN: [f"{location}, row {first + row}" for row in range(len(table))]}).astype(
        {ORIGIN: str}
    )


def _text(value: object) -> str:
    """One value as text."""
    if value is None or value != value:  # the second: not a number
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
