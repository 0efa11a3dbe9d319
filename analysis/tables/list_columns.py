"""Columns that hold a list of numbers per row: lists of any Arrow type, nested ones, and lists written as text."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LIST = re.compile(r"(?:\w+\()?[\[({]+(?P<elements>[^][(){}]*)[\])}]+(?:,\s*\w+=[\w.']+)*\)?", re.DOTALL)
"""`[0.1, 0.2]` of JSON, `[0.1 0.2]` of NumPy, `array([0.1, 0.2], dtype=float32)`, and `{0.1,0.2}` of a database."""
HEAD = 64
"""Rows among which a filled one is looked for first."""
MISSING_ELEMENTS = {"null": "nan", "None": "nan", "NULL": "nan", "<NA>": "nan"}


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list of anything."""
    views = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return bool(views or pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_vector(kind: pa.DataType) -> bool:
    """Whether a type is a list of numbers."""
    return is_list(kind) and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of lists as lists, and decimals in them as float64; other columns as they are."""
    kind = column.type
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        column = column.cast(pa.large_list(kind.value_type))
    while is_list(column.type) and is_list(column.type.value_type):
        column = pa.chunked_array([_one_level(chunk) for chunk in column.chunks], _element_list(column.type))
    if is_list(column.type) and pa.types.is_decimal(column.type.value_type):
        column = column.cast(pa.large_list(pa.float64()), safe=False)
    return column


def _element_list(kind: pa.DataType) -> pa.DataType:
    return pa.large_list(kind.value_type.value_type)


def _one_level(lists: pa.Array) -> pa.Array:
    """Lists of lists with one level less; what is missing stays so."""
    outer = lists.cast(pa.large_list(lists.type.value_type))
    inner = outer.values.cast(_element_list(lists.type))
    begin = np.asarray(inner.offsets)[np.asarray(outer.offsets)]
    return pa.LargeListArray.from_arrays(pa.array(begin), inner.values, mask=outer.is_null())


def of_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column whose texts are lists of numbers as lists; any other column as it is. Blanks are missing."""
    if not pa.types.is_string(column.type) or not _begins_with_list(column):
        return column
    lists = [_elements(text) for text in column.to_pylist()]
    if any(elements is None for elements in lists):
        return column
    whole = all(isinstance(number, int) for elements in lists for number in elements or ())
    kind = pa.list_(pa.int64() if whole else pa.float64())
    return pa.chunked_array([pa.array([elements or None for elements in lists], kind)])


def _begins_with_list(column: pa.ChunkedArray) -> bool:
    """Whether the first filled cell is a list of two or more; (1) could be a name."""
    for part in (column.slice(0, HEAD), column.slice(HEAD)):
        filled = pc.index(pc.not_equal(pc.fill_null(part, ""), ""), pa.scalar(value=True)).as_py()
        if filled >= 0:
            return len(_elements(part[filled].as_py()) or ()) > 1
    return False


def _elements(text: str | None) -> list[float] | list[int] | None:
    """The numbers of a list; none of a blank; None where a text is no list of numbers, or one that was cut short."""
    if not (text or "").strip():
        return []
    match = LIST.fullmatch(str(text).strip())
    words = match["elements"].replace(",", " ").split() if match else []
    try:
        return [int(word) for word in words] or None
    except ValueError:
        pass
    try:
        return [float(MISSING_ELEMENTS.get(word, word)) for word in words]
    except ValueError:
        return None
