"""Rows of a table in a mapped file: written part by part, read back by number.

The pages of a mapped file are the system's to drop, so a table of any length takes no memory of the process. The file
has no name: nothing is left behind, whatever ends the process.
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

AT_ONCE = 50_000
"""Rows of a table that are in memory at one time."""


@dataclass(frozen=True)
class Rows:
    """Columns of text and of whole numbers."""

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
        """These rows, in this order; of all columns or of those named.

        Arrow's own `take` of a column in chunks would first put the whole column together.
        """
        import pyarrow as pa

        table = self.table if names is None else self.table.select(list(names))
        order = np.argsort(numbers, kind="stable")
        ascending, places = numbers[order], np.empty_like(order)
        places[order] = np.arange(len(order))
        chunks = np.searchsorted(self._begins, ascending, side="right") - 1
        edges = [*np.flatnonzero(np.diff(chunks, prepend=-1)).tolist(), len(order)]
        found = [table.schema.empty_table()]
        for begin, end in pairwise(edges):
            chunk = int(chunks[begin])
            held = pa.table([column.chunk(chunk) for column in table.columns], schema=table.schema)
            found.append(held.take(pa.array(ascending[begin:end] - self._begins[chunk])))
        together = pa.concat_tables(found).combine_chunks().take(pa.array(places))
        frame: pd.DataFrame = together.to_pandas(use_threads=False)  # why: see shards.tables.parquet
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
        yield from (part.iloc[begin : begin + AT_ONCE] for begin in range(0, max(1, len(part)), AT_ONCE))


def _schema(part: pd.DataFrame) -> pa.Schema:
    import pandas as pd
    import pyarrow as pa

    whole = pd.api.types.is_integer_dtype
    return pa.schema([(str(n), pa.int64() if whole(kind) else pa.large_string()) for n, kind in part.dtypes.items()])
