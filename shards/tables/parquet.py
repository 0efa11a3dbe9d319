"""Parquet → Arrow columns, decoded by the thread that asks.

Arrow's own threads may still hold what they read when a command ends, and then abort the whole process ("terminate
called without an active exception"; apache/arrow issues 33975 and 34314): a thread that wakes up in an interpreter that
is shutting down cannot let go of Python's memory. So no thread of Arrow's reads anything here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import IO, TYPE_CHECKING

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


def write_frames(parts: Iterable[pd.DataFrame], file: IO[bytes], rows: int) -> None:
    """Write a table whose parts come one after another, in row groups of at least so many rows but for the last."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with ExitStack() as stack:
        writer, held = None, list[pd.DataFrame]()
        for part in chain(parts, [None]):
            if part is not None:
                held.append(part)
            if held and (part is None or sum(map(len, held)) >= rows):
                schema = None if writer is None else writer.schema
                group = pa.Table.from_pandas(pd.concat(held, ignore_index=True), schema, preserve_index=False)
                writer = writer or stack.enter_context(ParquetWriter(file, group.schema))
                writer.write_table(group)
                held = []


def read_frame(file: ParquetFile, names: Sequence[str] | None = None) -> pd.DataFrame:
    """The same for pandas."""
    frame: pd.DataFrame = read_columns(file, names).to_pandas(use_threads=False)
    return frame
