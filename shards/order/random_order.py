"""The random order of samples: which well, which crop, which flips, as a pure function of (seed, position).

An order gives the well at each position of a run; `placed` gives the corner and flips of its crop. Any process can
compute any part on its own, so only the position has to be stored to resume, on any number of machines. The order that
reads shards in sequence is in `stream_order`, the weighted and per-plate orders are in `weighted_order`.

Arrays are (N,), one entry per position drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shards.order.keyed_random import below, digest, hashed, key, permuted

Indices = NDArray[np.int64]


class Order(Protocol):
    """The well at each position of a run: 0 .. n - 1, for n wells that the caller has selected."""

    @property
    def period(self) -> int:
        """Crops after which the order has gone through its wells and starts again in another sequence."""
        ...

    def wells(self, first: int, count: int) -> Indices:
        """The wells at positions `first` to `first + count`; ValueError if either is negative."""
        ...


@dataclass(frozen=True)
class Draws:
    """Crops in order: `well` number, upper left corner (`top`, `left`) in pixels, flips."""

    well: Indices
    top: Indices
    left: Indices
    flip_vertical: NDArray[np.bool_]
    flip_horizontal: NDArray[np.bool_]


@dataclass(frozen=True)
class RandomOrder:
    """Every well exactly once per epoch of `count` crops, in a new random sequence each epoch, in constant memory."""

    seed: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"need at least one well to sample, got {self.count}")

    @property
    def period(self) -> int:
        """An epoch: every well once."""
        return self.count

    def wells(self, first: int, count: int) -> Indices:
        """Position p is sample p % n of epoch p // n, permuted under the epoch's own key."""
        epoch, within = np.divmod(positions(first, count), np.uint64(self.count))
        return permuted(within, self.count, hashed(key(self.seed, "well"), epoch)).astype(np.int64)


def positions(first: int, count: int) -> NDArray[np.uint64]:
    """`first` to `first + count`, exclusive; ValueError if either is negative."""
    if first < 0 or count < 0:
        raise ValueError(f"need first >= 0 and count >= 0, got {first} and {count}")
    return np.arange(first, first + count, dtype=np.uint64)


def placed(seed: int, first: int, wells: Indices, image_shapes: ArrayLike, crop: int) -> Draws:
    """Place a crop of `crop` pixels square, and its flips, in each of the `wells` that begin at position `first`.

    `image_shapes` is (height, width), or one such row per entry of `wells`. A corner is drawn as a fraction of the
    possible positions, so wells may differ in size. Raises ValueError for an image smaller than the crop.
    """
    shapes = np.broadcast_to(np.asarray(image_shapes, dtype=np.int64), (len(wells), 2))
    if (small := (shapes < crop).any(axis=1)).any():
        raise ValueError(f"well {wells[small][0]} is smaller than the crop of {crop} pixels")
    choices = (shapes - crop + 1).astype(np.uint64)
    at = positions(first, len(wells))
    top, left, flips = (hashed(key(seed, purpose), at) for purpose in ("top", "left", "flips"))
    return Draws(
        wells,
        below(top, choices[:, 0]),
        below(left, choices[:, 1]),
        (flips & np.uint64(1)).astype(bool),
        (flips & np.uint64(2)).astype(bool),
    )


def shuffled(count: int, seed: int, begin: int = 0, end: int | None = None) -> Indices:
    """Return entries `begin` to `end` (exclusive) of 0 .. count - 1 in an order that depends only on the seed."""
    shuffle = hashed(key(seed, "shuffle"), np.zeros(1, np.uint64))
    entries = np.arange(begin, count if end is None else end, dtype=np.uint64)
    return permuted(entries, count, shuffle).astype(np.int64)


def nested_experiments(experiments: Iterable[str], fraction: float, seed: int) -> tuple[str, ...]:
    """Choose `fraction` of the experiments, rounded but at least one, sorted by name.

    Experiments are ranked by a keyed hash of their own name: each smaller fraction is a subset of every larger one, and
    an experiment's rank relative to another does not depend on the other experiments.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    ranked = sorted(set(experiments), key=lambda name: (digest(f"{seed}/{name}"), name))
    return tuple(sorted(ranked[: max(1, round(fraction * len(ranked)))]))
