"""Sample order: which well, which crop, which flips, as a pure function of (seed, position).

Position p of a run is sample p % wells of epoch p // wells. A keyed permutation of each epoch's positions makes an
epoch visit every well exactly once, in constant memory, and any process can compute any part of the order on its own:
nothing but the position need be stored to resume, on any number of machines.

Arrays are (N,), one entry per position drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ROUNDS = 8


@dataclass(frozen=True)
class Draws:
    """Crops in order: `well` number, upper left corner (`top`, `left`) in pixels, flips."""

    well: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flip_vertical: NDArray[np.bool_]
    flip_horizontal: NDArray[np.bool_]


def draws(seed: int, first: int, count: int, wells: int, image_shape: ArrayLike, crop: int) -> Draws:
    """Draw positions `first` to `first + count` of a run over `wells` wells, `crop` pixels square.

    `image_shape` is (height, width), or one such row per well. A corner is drawn as a fraction of the places it may
    take, so wells may differ in size. Raises ValueError for an image smaller than the crop.
    """
    if wells < 1 or first < 0 or count < 0:
        raise ValueError(f"need wells >= 1, first >= 0 and count >= 0, got {wells}, {first} and {count}")
    position = np.arange(first, first + count, dtype=np.uint64)
    epoch, within = np.divmod(position, np.uint64(wells))
    well = _permute(within, wells, _hash(_seed(seed, "well"), epoch)).astype(np.int64)
    shapes = np.broadcast_to(np.asarray(image_shape, dtype=np.int64), (wells, 2))[well]
    if count and shapes.min() < crop:
        small = well[(shapes < crop).any(axis=1)][0]
        raise ValueError(f"well {small} is smaller than the crop of {crop} pixels")
    places = (shapes - crop + 1).astype(np.uint64)
    top, left, flips = (_hash(_seed(seed, purpose), position) for purpose in ("top", "left", "flips"))
    return Draws(
        well,
        _below(top, places[:, 0]),
        _below(left, places[:, 1]),
        (flips & np.uint64(1)).astype(bool),
        (flips & np.uint64(2)).astype(bool),
    )


def shuffled(count: int, seed: int) -> NDArray[np.int64]:
    """Return 0 .. count - 1 in an order that depends on the seed alone."""
    keys = np.broadcast_to(_hash(_seed(seed, "shuffle"), np.zeros(1, np.uint64)), (count,))
    return _permute(np.arange(count, dtype=np.uint64), count, keys).astype(np.int64)


def nested_experiments(experiments: Iterable[str], fraction: float, seed: int) -> tuple[str, ...]:
    """Choose `fraction` of the experiments, rounded but at least one, sorted by name.

    Experiments are ranked by a keyed hash of their own name: each smaller fraction is a subset of every larger one, and
    an experiment's rank relative to another never depends on which others there are.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    ranked = sorted(set(experiments), key=lambda name: (_digest(f"{seed}/{name}"), name))
    return tuple(sorted(ranked[: max(1, round(fraction * len(ranked)))]))


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _seed(seed: int, purpose: str) -> np.uint64:
    return np.uint64(_digest(f"{purpose}/{seed}"))


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): a bijection of 64-bit words that scatters them."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _hash(key: np.uint64 | NDArray[np.uint64], words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return _mix(_mix(words * GOLDEN + GOLDEN) ^ key)


def _below(words: NDArray[np.uint64], bound: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Scale the upper 32 bits, read as a fraction in [0, 1), to whole numbers below `bound` (below 2^32)."""
    return (((words >> np.uint64(32)) * bound) >> np.uint64(32)).astype(np.int64)


def _permute(positions: NDArray[np.uint64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Permute 0 .. size - 1 under each position's own key: a Feistel network, walked until it falls below `size`.

    The network permutes the next even power of two, at most four times `size`; following its cycle from a position
    below `size` to the next value below `size` is itself a permutation (Black and Rogaway 2002).
    """
    half = np.uint64(max(1, math.ceil((size - 1).bit_length() / 2)))
    out = _feistel(positions, half, keys)
    outside = np.flatnonzero(out >= size)
    while outside.size:
        out[outside] = _feistel(out[outside], half, keys[outside])
        outside = outside[out[outside] >= size]
    return out


def _feistel(words: NDArray[np.uint64], half: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = words >> half, words & low
    for number in range(ROUNDS):
        left, right = right, left ^ (_hash(keys + np.uint64(number), right) & low)
    return (left << half) | right
