"""Read and write Parquet tables without Arrow's own threads.

Arrow's threads may still hold what they read when a command ends, and then abort the process ("terminate called without
an active exception"; apache/arrow issues 33975 and 34314): a thread that wakes up while the interpreter is shutting
down cannot release Python's memory. So columns are decoded by the calling thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from pyarrow.parquet import ParquetFile


def write_frames(parts: Iterable[pd.DataFrame], file: IO[bytes], rows: int) -> None:
    """Write a table from its parts, in row groups of at least `rows` rows, except for the last."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with ExitStack() as stack:
        writer, buffered = None, list[pd.DataFrame]()
        for part in chain(parts, [None]):
            if part is not None:
                buffered.append(part)
            if buffered and (part is None or sum(map(len, buffered)) >= rows):
                schema = None if writer is None else writer.schema
                group = pa.Table.from_pandas(pd.concat(buffered, ignore_index=True), schema, preserve_index=False)
                writer = writer or stack.enter_context(ParquetWriter(file, group.schema))
                writer.write_table(group)
                buffered = []


def read_frame(file: ParquetFile, names: Sequence[str] | None = None) -> pd.DataFrame:
    """The named columns of a file, or all, as a pandas table."""
    table = file.read(None if names is None else list(names), use_threads=False)
    frame: pd.DataFrame = table.to_pandas(use_threads=False)
    return frame
