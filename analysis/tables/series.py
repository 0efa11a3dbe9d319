"""Columns of pandas as those of a table that was read: categories, nullable, Arrow-backed and mixed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from analysis.tables.parquet_columns import plain

if TYPE_CHECKING:
    import pandas as pd


def column_of(series: pd.Series) -> pa.ChunkedArray:
    """The values as strings, whole numbers, float64, booleans or lists; values of several types as text."""
    try:
        column = pa.array(series, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        missing = series.isna()
        texts = [None if gone else str(value) for value, gone in zip(series, missing, strict=True)]
        column = pa.array(texts, pa.string())
    return plain(column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column]))
