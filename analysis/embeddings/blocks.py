"""Work on embeddings a block of wells at a time: a large screen is in memory once, as it is stored, and never copied.

Legend: W wells, w wells of a block, n chosen wells, D embedding width, K width after a correction,
G groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.arrays import Features, Floats, Rows

BLOCK = 4096
"""Wells of a block: 32 MB of 1,024 features."""
Blocks = Iterable[tuple[Rows, Floats]]
"""Row numbers of w wells, and their embeddings (w, D)."""


@dataclass(frozen=True)
class Corrected:
    """The wells of a screen after a correction, in blocks, each well once. Blocks can be read only once."""

    wells: int
    width: int
    blocks: Iterator[tuple[Rows, Floats]]  # row numbers, and embeddings (w, K)

    def array(self) -> Floats:
        """All embeddings, (W, K)."""
        result = np.empty((self.wells, self.width))
        for rows, block in self.blocks:
            result[rows] = block
        return result

    def written_to(self, values: Features) -> Corrected:
        """The same, each block written to the first K columns of `values`, which may be what is corrected."""

        def blocks() -> Iterator[tuple[Rows, Floats]]:
            for rows, block in self.blocks:
                values[rows, : self.width] = block
                yield rows, block

        return Corrected(self.wells, self.width, blocks())


def blocks_of(values: Features, chosen: npt.NDArray[np.int64] | None = None) -> Iterator[tuple[Rows, Floats]]:
    """All rows of (W, D), or those chosen (n,), in blocks of float64 that the caller may overwrite."""
    count = len(values) if chosen is None else len(chosen)
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, count)) if chosen is None else _contiguous(chosen[start : start + BLOCK])
        yield rows, values[rows].astype(np.float64)


def _contiguous(rows: npt.NDArray[np.int64]) -> Rows:
    """A slice where ascending rows are without a gap: reading by a slice is faster."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows


def coded(names: npt.ArrayLike) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The different names as text in ascending order, and the number of each row's among them, (W,)."""
    codes, found = pd.factorize(np.asarray(names), use_na_sentinel=False)
    texts = [str(name) for name in found]
    known = sorted(set(texts))
    number = {name: position for position, name in enumerate(known)}
    return known, np.array([number[name] for name in texts], np.int64)[codes]


def rows_of_groups(group: npt.NDArray[np.int64], groups: int) -> list[npt.NDArray[np.int64]]:
    """The rows of each group, ascending; `group` (W,) has each row's number, -1 for none."""
    order = np.argsort(group, kind="stable")
    ends = np.searchsorted(group[order], np.arange(-1, groups), side="right")
    return [order[start:end] for start, end in pairwise(ends)]


def group_sums(blocks: Blocks, group: npt.NDArray[np.int64], shape: tuple[int, int]) -> Floats:
    """The sum of the embeddings of each group, `shape` (G, D); `group` (W,) has each row's number, -1 for none."""
    sums = np.zeros(shape)
    for rows, block in blocks:
        own = group[rows]
        order = np.argsort(own, kind="stable")
        order = order[np.searchsorted(own[order], 0) :]
        if len(order):
            numbers, starts = np.unique(own[order], return_index=True)
            sums[numbers] += np.add.reduceat(block[order], starts, axis=0)
    return sums
