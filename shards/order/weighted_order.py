"""Sample orders that do not see all wells equally often: weighted, and plate by plate.

Pure functions of (seed, position) like the random order, so they are as exact and resume as easily on other ranks.
Weighted sampling balances labels; batches of one plate serve losses and normalisations that must not compare across
plates.

Arrays are (N,), one entry per position drawn, or (n,), one per well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shards.order.keyed_random import Words, fractions, hashed, key, permuted
from shards.order.random_order import Indices, positions


def balancing_weights(labels: Sequence[object] | NDArray[np.generic], power: float = 1.0) -> NDArray[np.float64]:
    """A weight for each well, (number of wells with its label) ** -power.

    With 1 all labels are equally likely, with 0 all wells; values in between are a compromise.
    """
    _, label, counts = np.unique(np.asarray(labels, dtype=str), return_inverse=True, return_counts=True)
    return counts[label].astype(np.float64) ** -power


@dataclass(frozen=True, eq=False)
class WeightedOrder:
    """Each position draws a well in proportion to its weight, with replacement and independently of all others.

    The draw inverts the weights' cumulative sum at a hash of the position. Raises ValueError for weights that are
    negative, not finite, or all 0.
    """

    seed: int
    weights: ArrayLike
    _cumulative: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.ndim != 1 or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
            raise ValueError("weights must be one number per well, finite, none below 0 and at least one above")
        object.__setattr__(self, "_cumulative", np.cumsum(weights))

    @property
    def period(self) -> int:
        """The number of wells; every position is an independent draw."""
        return len(self._cumulative)

    def wells(self, first: int, count: int) -> Indices:
        """The wells at positions `first` to `first + count`; ValueError if either is negative."""
        total = self._cumulative[-1]
        drawn = fractions(hashed(key(self.seed, "weighted"), positions(first, count))) * total
        # A product that is rounded up to the total would be past the last well with a weight.
        wells: Indices = np.searchsorted(self._cumulative, np.minimum(drawn, np.nextafter(total, 0)), side="right")
        return wells


@dataclass(frozen=True, eq=False)
class PlateOrder:
    """Groups of `group` consecutive positions, each of one plate; every image at most once per epoch.

    A group is a complete global batch, or one rank's part of it: the order is the same. Per epoch each plate gives
    floor(n / group) groups of its n images, drawn without replacement, and leaves n mod group images out, different
    ones in each epoch; groups of all plates come in random order. `plates` names the plate of each image. Raises
    ValueError if a plate has fewer images than a group, because none of them would ever be drawn.
    """

    seed: int
    plates: Sequence[object] | NDArray[np.generic]
    group: int
    _members: Indices = field(init=False, repr=False)  # images, plate after plate
    _sizes: Indices = field(init=False, repr=False)  # images of each plate

    def __post_init__(self) -> None:
        names, plate, sizes = np.unique(np.asarray(self.plates, dtype=str), return_inverse=True, return_counts=True)
        if self.group < 1 or not len(names):
            raise ValueError("need at least one image, and groups of at least one")
        if (small := sizes < self.group).any():
            raise ValueError(
                f"plate {names[small][0]} has {sizes[small][0]} images, fewer than a group of {self.group}: "
                "leave it out or draw smaller groups"
            )
        object.__setattr__(self, "_members", np.argsort(plate, kind="stable"))
        object.__setattr__(self, "_sizes", sizes.astype(np.int64))

    @property
    def period(self) -> int:
        """An epoch: every image once, less each plate's remainder."""
        return int((self._sizes // self.group).sum()) * self.group

    def wells(self, first: int, count: int) -> Indices:
        """The wells at positions `first` to `first + count`; ValueError if either is negative."""
        epoch, within = np.divmod(positions(first, count), np.uint64(self.period))
        slot, place = np.divmod(within, np.uint64(self.group))
        group = self._permuted("plate groups", slot, self.period // self.group, epoch)
        ends = np.cumsum(self._sizes // self.group)
        plate = np.searchsorted(ends, group, side="right")
        nth = group - (ends - self._sizes // self.group)[plate]  # of the plate's groups
        sample = nth.astype(np.uint64) * np.uint64(self.group) + place
        under = hashed(epoch, plate.astype(np.uint64))
        image = self._permuted("plate images", sample, self._sizes[plate].astype(np.uint64), under)
        wells: Indices = self._members[(np.cumsum(self._sizes) - self._sizes)[plate] + image]
        return wells

    def _permuted(self, purpose: str, places: Words, sizes: int | Words, under: Words) -> Indices:
        return permuted(places, sizes, hashed(key(self.seed, purpose), under)).astype(np.int64)
