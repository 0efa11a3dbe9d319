"""The columns of a Parquet file, with the named levels of pandas' index, as text, numbers, booleans or vectors."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.tables.dialect import check_unique, join_levels
from analysis.tables.errors import TableError
from analysis.tables.list_columns import flat, is_list, is_vector

UNNAMED_LEVEL = re.compile(r"__index_level_(\d+)__")


def parquet_columns(path: Path) -> tuple[tuple[str, ...], tuple[pa.ChunkedArray, ...]]:
    """Names and columns of a file, or of a folder of files.

    A level of pandas' index is a column; one without a name is called `index`. Names of several levels are joined by
    an underscore, numbers as names are text.

    Raises:
        TableError: not a Parquet file, or one that is damaged, or two columns have one name.
    """
    try:
        table = (pq.read_table(path) if path.is_dir() else _read_file(path)).flatten()  # a struct becomes its fields
        names = tuple(_names(table.schema))
        columns = tuple(plain(column) for column in table.columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(f"cannot be read as Parquet: {error}") from error
    check_unique(names)
    return names, columns


def _read_file(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read()


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as strings, whole numbers, float64, booleans or lists; a category becomes what it stands for."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain(column.cast(kind.value_type))
    if isinstance(kind, pa.BaseExtensionType):
        return plain(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    if is_list(kind) and is_vector((column := flat(column)).type):
        return column
    if pa.types.is_float16(kind):
        return column.cast(pa.float32()).cast(pa.float64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind):
        return column
    if pa.types.is_nested(kind):
        return pa.chunked_array([[None if value is None else str(value) for value in column.to_pylist()]], pa.string())
    return _as_text(column)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text of any encoding, dates and times; bytes that are no text as hexadecimal digits."""
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        values = (value.hex() if isinstance(value, bytes) else value for value in column.to_pylist())
        return pa.chunked_array([[None if value is None else str(value) for value in values]], pa.string())


def _names(schema: pa.Schema) -> list[str]:
    described = json.loads((schema.metadata or {}).get(b"pandas") or b"{}")
    levels = len(described.get("column_indexes") or [None])
    index = [name for name in described.get("index_columns") or [] if isinstance(name, str)]
    return [_name(name, levels, len(index)) for name in schema.names]


def _name(stored: str, levels: int, index_levels: int) -> str:
    """The name of a column from the one that is stored: `('Cells', 'Area')` is pandas' way to store two levels."""
    if level := UNNAMED_LEVEL.fullmatch(stored):
        return "index" if index_levels == 1 else f"index_{level[1]}"
    if levels > 1 and stored.startswith("("):
        try:
            parts = ast.literal_eval(stored)
        except (ValueError, SyntaxError):
            return stored
        if isinstance(parts, tuple):
            return join_levels([str(part) for part in parts])
    return stored.strip()
