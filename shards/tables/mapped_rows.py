"""Keep the rows of a table in a memory-mapped file: written part by part, read back by number.

The system may drop the pages of a mapped file, so a table of any length takes no memory of the process. The file has no
name, so nothing is left behind however the process ends.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PART_ROWS = 50_000
"""Rows of a table that are in memory at a time."""


@dataclass(frozen=True)
class Rows:
    """Columns of text and of integers."""

    table: pa.Table  # a chunk for each part that was written

    @classmethod
    def write(cls, parts: Iterable[pd.DataFrame], folder: Path | None = None) -> Rows:
        """Write parts, at least one, with the columns of the first, to the disk of `folder` or of temporary files."""
        import pyarrow as pa

        slices = _sliced(parts)
        first = next(slices)
        schema = _schema(first)
        with tempfile.TemporaryFile(dir=folder) as file:
            with pa.ipc.new_file(file, schema) as writer:
                for part in chain([first], slices):
                    writer.write_table(pa.Table.from_pandas(part, schema, preserve_index=False).combine_chunks())
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        return cls(pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).read_all())

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.table.column_names)

    def take(self, numbers: NDArray[np.int64], names: Sequence[str] | None = None) -> pd.DataFrame:
        """These rows, in this order, with all columns or the named ones.

        Arrow's own `take` of a chunked column would first join all its chunks.
        """
        import pyarrow as pa

        table = self.table if names is None else self.table.select(list(names))
        order = np.argsort(numbers, kind="stable")
        ascending, positions = numbers[order], np.empty_like(order)
        positions[order] = np.arange(len(order))
        chunks = np.searchsorted(self._begins, ascending, side="right") - 1
        edges = [*np.flatnonzero(np.diff(chunks, prepend=-1)).tolist(), len(order)]
        taken = [table.schema.empty_table()]
        for begin, end in pairwise(edges):
            chunk = int(chunks[begin])
            rows = pa.table([column.chunk(chunk) for column in table.columns], schema=table.schema)
            taken.append(rows.take(pa.array(ascending[begin:end] - self._begins[chunk])))
        joined = pa.concat_tables(taken).combine_chunks().take(pa.array(positions))
        frame: pd.DataFrame = joined.to_pandas(use_threads=False)  # see shards.tables.parquet
        return frame

    def argsort(self, *names: str) -> NDArray[np.int64]:
        """Numbers of all rows, by ascending value of these columns; equal ones stay in order."""
        import pyarrow.compute as compute

        keys = [(name, "ascending") for name in names]
        return np.asarray(compute.sort_indices(self.table.select(list(names)), sort_keys=keys)).astype(np.int64)

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        """The first row of each chunk."""
        lengths = [len(chunk) for chunk in self.table.column(0).chunks]
        return np.cumsum([0, *lengths[:-1]], dtype=np.int64)


def _sliced(parts: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for part in parts:
        yield from (part.iloc[begin : begin + PART_ROWS] for begin in range(0, max(1, len(part)), PART_ROWS))


def _schema(part: pd.DataFrame) -> pa.Schema:
    import pandas as pd
    import pyarrow as pa

    is_integer = pd.api.types.is_integer_dtype
    return pa.schema(
        [(str(n), pa.int64() if is_integer(kind) else pa.large_string()) for n, kind in part.dtypes.items()]
    )
