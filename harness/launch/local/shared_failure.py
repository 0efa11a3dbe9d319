"""Failures that every cell of a study would share, so that a sweep stops instead of failing cell by cell.

Some say so themselves: a module that is not installed, a disk that is full. Any other is taken for shared once it has
ended cells of two models and two datasets (where there are two) and no cell is done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.grid.cell import Cell

OF_ALL = re.compile(
    r"ModuleNotFoundError|ImportError|No space left on device|Disk quota exceeded|Read-only file system|"
    r"Permission denied|CUDA driver version is insufficient|no kernel image is available"
)
OWN_WORDS = re.compile(r"\S*/\S*|0x[0-9a-f]+|\d+")  # paths and numbers, which differ between cells that fail alike
FEWEST = 2  # cells, models and datasets with one failure


@dataclass
class SharedFailure:
    """Asked after each cell of `pending` that ends."""

    pending: Sequence[Cell]
    _alike: dict[str, list[Cell]] = field(default_factory=dict)
    _is_any_done: bool = False

    def reason_to_stop(self, cell: Cell, error: str | None) -> str | None:
        """Why the cells that are left would fail as this one did; None if that cannot be told, or it is done."""
        if error is None:
            self._is_any_done = True
            return None
        if said := OF_ALL.search(error):
            return f"every cell would fail of this ({said[0]})"
        if cell.start is not None:  # it may have failed with that
            return None
        alike = self._alike.setdefault(OWN_WORDS.sub("", error.replace(cell.id, "")), [])
        alike.append(cell)
        if (
            self._is_any_done
            or len(alike) < FEWEST
            or not all(self._span(alike, name) for name in ("model", "dataset"))
        ):
            return None
        return f"{len(alike)} cells failed alike and none is done"

    def _span(self, failed: Sequence[Cell], name: str) -> bool:
        """Whether cells that failed alike are of two models or datasets, or of the only one."""
        return len(_values(failed, name)) >= min(FEWEST, len(_values(self.pending, name)))


def _values(cells: Iterable[Cell], name: str) -> set[str | None]:
    return {getattr(cell, name) for cell in cells}
