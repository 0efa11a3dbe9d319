"""A column as names: text that is the same for the same plate, well, gene or treatment in every table.

`1`, `1.0` and the number 1 are one name, `001` is another; `true` is `True`; A1, a1, A01 and A001 are one well. Only a
blank is missing: `NA`, `None` and `nan` are names.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analysis.arrays import Names

WELL = re.compile(r"([A-Za-z]|[Aa][A-Fa-f])\s*[-_:]?\s*0*([1-9]\d?)")
"""Up to the 32 rows and 48 columns of a plate of 1,536 wells."""
WHOLE = re.compile(r"([-+]?\d+)\.0+")
PREFIXES = re.compile(r"^(image_)?(metadata_)?", re.IGNORECASE)
BLANK = "(blank)"
"""What messages call a blank name."""


def base_name(column: str) -> str:
    """A column's name without CellProfiler's and pycytominer's prefixes, in small letters."""
    return PREFIXES.sub("", column).lower()


def joined_name(column: str) -> str:
    """`base_name` without what separates words: `fieldid` of Field_ID and of `Field ID`."""
    return re.sub(r"[\W_]+", "", base_name(column))


@lru_cache(maxsize=1024)
def is_well_column(column: str) -> bool:
    """Whether a column of that name holds positions on a plate."""
    return joined_name(column) in ("well", "wellposition", "wellid", "wellname")


def name_of(text: str, column: str = "") -> str:
    """The name that a text is in a column."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.capitalize()
    if whole := WHOLE.fullmatch(text):
        return whole[1]
    if is_well_column(column) and (well := WELL.fullmatch(text)):
        return f"{well[1].upper()}{int(well[2]):02d}"
    return text


def names_of(values: pa.ChunkedArray, column: str) -> Names:
    """A column as names, (rows,) of str; what is missing is blank."""
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
        texts = pa.chunked_array([[None if v is None else _of_float(v) for v in values.to_pylist()]], pa.string())
    else:
        texts = values if pa.types.is_string(values.type) else _as_text(values)
    encoded = pc.fill_null(texts, "").combine_chunks().dictionary_encode()
    known = np.array([name_of(text, column) for text in encoded.dictionary.to_pylist()], dtype=object)
    return known[encoded.indices.to_numpy(zero_copy_only=False)] if len(encoded) else np.empty(0, dtype=object)


def _of_float(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_boolean(values.type):
        return pc.if_else(values, "True", "False")
    if pa.types.is_integer(values.type):
        return values.cast(pa.string())
    return pa.chunked_array([[None if value is None else str(value) for value in values.to_pylist()]], pa.string())
