"""Parquet → Arrow columns, decoded by the thread that asks.

Arrow's own threads may still hold what they read when a command ends, and then abort the whole process ("terminate
called without an active exception"; apache/arrow issues 33975 and 34314): a thread that wakes up in an interpreter that
is shutting down cannot let go of Python's memory. So no thread of Arrow's reads anything here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile


def opened(data: NDArray[np.uint8]) -> ParquetFile:
    """The Parquet file that these bytes are; they are not copied."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    return parquet.ParquetFile(pa.BufferReader(pa.py_buffer(data)))


def read_columns(file: ParquetFile, names: Sequence[str] | None = None) -> pa.Table:
    """Columns of a file, or all of them."""
    return file.read(None if names is None else list(names), use_threads=False)


def read_groups(file: ParquetFile, names: Sequence[str]) -> Iterator[dict[str, pa.Array]]:
    """Columns of one row group after another, by name: what is in memory at one time, however long the table."""
    for number in range(file.num_row_groups):
        group = file.read_row_group(number, list(names), use_threads=False)
        yield {name: group[name].combine_chunks() for name in names}


def read_frame(file: ParquetFile, names: Sequence[str] | None = None) -> pd.DataFrame:
    """The same for pandas."""
    frame: pd.DataFrame = read_columns(file, names).to_pandas(use_threads=False)
    return frame
