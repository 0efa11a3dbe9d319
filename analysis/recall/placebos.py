"""Placebos: features that know no biology, measured as a model is. What they recall, a model need not have learned.

| placebo | features |
|---|---|
| `random_features` | standard normal numbers |
| `well_position` | row and column of the well on its plate |
| `cell_count` | the number of cells in the well, where the table has a column of it |
| `intensity` | mean of each channel |
| `pixel_statistics` | mean and standard deviation of each channel |
| `shuffled_pairs` | the model's own, with the genes of the known pairs exchanged |

Legend: W wells, D features, K features of a placebo.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats

if TYPE_CHECKING:
    from analysis.recall.pairs import Pairs

RANDOM_WIDTH = 128
BUMPS = 16  # of one number, so that directions show how near two wells are
WAVES = 4  # of row and of column: half periods over the plate, 0 to 3
HALF = 0.5  # of a model's recall over chance that a placebo must reach to be flagged
COUNTS = ("cell_count", "cells", "n_cells", "nuclei_count", "count_cells", "cells_count")
LETTERS = re.compile(r"([A-Za-z]{1,2})[ -]?0*([1-9][0-9]?)")
NUMBERS = re.compile(r"[Rr]0*([1-9][0-9]?)[ -]?[Cc]0*([1-9][0-9]?)")


@dataclass(frozen=True)
class PlaceboRecall:
    """What a placebo recalls of a source."""

    placebo: str
    source: str
    recall: float
    low: float
    high: float
    chance: float

    def share(self, recall: float) -> float:
        """Of a model's recall over chance; infinite where the model has none and the placebo has."""
        gain, own = self.recall - self.chance, recall - self.chance
        return gain / own if own > 0 else np.inf if gain > 0 else 0.0

    def is_suspect(self, recall: float) -> bool:
        """Whether it reaches half of a model's recall over chance, and its interval excludes chance."""
        return self.low > self.chance and self.share(recall) >= HALF


def random_features(wells: int, seed: int = 0) -> Floats:
    """(W, 128) standard normal numbers."""
    return np.random.default_rng(seed).normal(size=(wells, RANDOM_WIDTH))


def position_features(names: Sequence[str]) -> Floats:
    """(W, 15) products of cosines of row and column, which follow any smooth pattern on a plate.

    Args:
        names: (W,) wells such as A01, AA12 or r01c01.

    Raises:
        ValueError: a name is no well, or all wells have one position.
    """
    places = [_place(name) for name in names]
    if unread := [name for name, place in zip(names, places, strict=True) if place is None]:
        some = f"{len(unread)} of {len(names)} wells have no position"
        raise ValueError(f"{some}, such as {unread[0]!r}; A01, AA12 and r01c01 are read")
    if len(set(places)) < 2:
        raise ValueError("all wells have one position")
    rows, columns = np.array(places, dtype=np.float64).T
    waves = [_waves(rows), _waves(columns)]
    products = np.einsum("wi,wj->wij", *waves).reshape(len(rows), -1)
    return np.asarray(products[:, 1:], dtype=np.float64)  # the first is 1 everywhere


def number_features(values: npt.ArrayLike) -> Floats:
    """(W, 16) Gaussian bumps around quantiles of one number per well.

    Raises:
        ValueError: it is not known of every well, or the same in all.
    """
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:  # such as text, and pandas' missing value
        raise ValueError(f"not a number in every well: {error}") from error
    if missing := int((~np.isfinite(numbers)).sum()):
        raise ValueError(f"{missing} of {len(numbers)} wells have no number")
    if np.ptp(numbers) == 0:
        raise ValueError(f"all wells have the number {numbers[0]:g}")
    ranks = np.argsort(np.argsort(numbers, kind="stable"), kind="stable") / len(numbers)
    centres = (np.arange(BUMPS) + 0.5) / BUMPS
    return np.asarray(np.exp(-0.5 * ((ranks[:, None] - centres) * BUMPS) ** 2))


def shuffled(pairs: Pairs, genes: Sequence[str], seed: int = 0) -> Pairs:
    """The list with its genes in the map exchanged, so that it has the same structure and knows nothing.

    Pairs that are known by chance are left out, unless all are, as in a list of one complex.
    """
    known = sorted({gene for pair in pairs.pairs for gene in pair} & set(genes))
    other = dict(zip(known, np.random.default_rng(seed).permutation(known).tolist(), strict=True))
    moved = {(min(a, b), max(a, b)) for a, b in ((other.get(a, a), other.get(b, b)) for a, b in pairs.pairs)}
    unknown = moved - set(pairs.pairs)
    is_in_map = any(a in other and b in other for a, b in unknown)
    return replace(pairs, pairs=tuple(sorted(unknown if is_in_map else moved)))


def _place(name: str) -> tuple[int, int] | None:
    """Row and column of a well, from 1."""
    if letters := LETTERS.fullmatch(name.strip()):
        row = 0
        for letter in letters[1].upper():
            row = 26 * row + ord(letter) - ord("A") + 1
        return row, int(letters[2])
    numbers = NUMBERS.fullmatch(name.strip())
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def _waves(places: Floats) -> Floats:
    """(W, 4) cosines over the range of the places."""
    span = np.ptp(places) or 1.0
    return np.asarray(np.cos(np.pi * np.arange(WAVES) * ((places - places.min()) / span)[:, None]))
