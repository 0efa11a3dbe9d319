"""Rows that cannot be built as they are: they stop a build, or are left out and listed, or kept without a treatment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, combinations
from posixpath import normpath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.errors import LayoutError
from shards.tables.columns import FAULT, ORIGIN, UNDESCRIBED

if TYPE_CHECKING:
    import pandas as pd

LEAVE_OUT = "--on-error quarantine leaves such well images out and lists them"
KEEP = "--unlabelled keep keeps such wells with an empty treatment"


@dataclass(frozen=True)
class Tolerance:
    """What may be wrong with a row. `quarantine`: it stays in the table with its FAULT, instead of an error.

    `unlabelled`: a well that no table describes is kept with an empty treatment.
    """

    quarantine: bool = False
    unlabelled: bool = False


STRICT = Tolerance()


@dataclass
class FaultRule:
    """Applies a Tolerance to the parts of a table, and counts what it kept without a treatment."""

    tolerance: Tolerance
    channels: tuple[str, ...] = ()  # columns of locations
    unlabelled: int = field(default=0, init=False)  # well images

    def applied(self, part: pd.DataFrame) -> pd.DataFrame:
        """A part without UNDESCRIBED, and with FAULT if faults are tolerated; LayoutError for the first fault else."""
        faults = part[FAULT] if FAULT in part else part[ORIGIN].str.slice(0, 0)
        part = part.drop(columns=FAULT, errors="ignore")
        faults = faults.where(faults != "", _one_file(part, self.channels))
        self._raise_first(part, faults, LEAVE_OUT)
        if UNDESCRIBED in part:
            undescribed = part.pop(UNDESCRIBED)
            if self.tolerance.unlabelled:
                self.unlabelled += int((undescribed != "").sum())
            else:
                self._raise_first(part, undescribed, f"{KEEP}, and {LEAVE_OUT}")
                faults = faults.where(faults != "", undescribed)
        return part.assign(**{FAULT: faults}) if self.tolerance.quarantine else part

    def _raise_first(self, part: pd.DataFrame, faults: pd.Series[str], ways_on: str) -> None:
        wrong = faults != ""
        if wrong.any() and not self.tolerance.quarantine:
            more = f" (and {int(wrong.sum()) - 1} more such rows)" if wrong.sum() > 1 else ""
            raise LayoutError(f"{part.loc[wrong, ORIGIN].iloc[0]}: {faults[wrong].iloc[0]}{more}; {ways_on}")


def first_blank(table: pd.DataFrame, columns: list[str]) -> pd.Series[str]:
    """The fault of each row whose cell is blank in one of these columns; empty for the others."""
    faults = table[ORIGIN].str.slice(0, 0)
    for name in columns:
        faults = faults.mask((faults == "") & (table[name].str.strip() == ""), f"column {name!r} is empty")
    return faults


def _one_file(part: pd.DataFrame, channels: tuple[str, ...]) -> pd.Series[str]:
    """The fault of each row in which two channels name one file."""
    faults = part[ORIGIN].str.slice(0, 0)
    rows = zip(*(part[name].map(_plain) for name in channels), strict=True)
    for number, images in enumerate(rows):
        if len(set(images)) < len(images):
            pairs = combinations(zip(channels, images, strict=True), 2)
            first, second, file = next((a, b, file) for (a, file), (b, other) in pairs if file == other)
            names = (name.partition(":")[2] for name in (first, second))
            faults.iloc[number] = "channels {!r} and {!r} name one file, {}".format(*names, file)
    return faults


def shared_file(read: Callable[[], Iterable[tuple[pd.Series[str], pd.Series[str]]]]) -> tuple[int, str, str] | None:
    """How many rows of a channel have the file of a row before, and the origins of two; None if all files differ.

    `read` gives locations and origins part by part. Only a hash of each location, of 8 bytes, is kept.
    """
    hashes = np.concatenate([_hashes(locations[locations != ""]) for locations, _ in read()])
    hashes.sort()
    repeated = hashes[1:][hashes[1:] == hashes[:-1]]
    if not len(repeated):
        return None
    parts = (origins[_hashes(locations) == repeated[0]] for locations, origins in read())
    first, second, *_ = chain.from_iterable(parts)
    return len(repeated), first, second


def _hashes(locations: pd.Series[str]) -> NDArray[np.uint64]:
    import pandas as pd

    return np.asarray(pd.util.hash_array(locations.map(_plain).to_numpy(object), categorize=False), np.uint64)


def _plain(location: str) -> str:
    """A location without steps that lead nowhere."""
    return normpath(location) if "/." in location or location.count("//") > location.count("://") else location
