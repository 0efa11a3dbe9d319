"""Keyed randomness: hashes, fractions and permutations as pure functions of a key and a position.

Nothing here holds state, so any process can compute any part of a random sequence on its own, in any order. Every
function works on arrays of positions.

Arrays are (N,), one entry per position.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ROUNDS = 8


def digest(text: str) -> int:
    """64 bits of BLAKE2b: the same for a text on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def key(seed: int, purpose: str) -> np.uint64:
    """The key of one purpose under a seed; purposes are independent of each other."""
    return np.uint64(digest(f"{purpose}/{seed}"))


def hashed(under: np.uint64 | Words, words: Words) -> Words:
    """Hash each word under one key, or each under its own; hashes of hashes give keys of several parts."""
    return _mix(_mix(words * GOLDEN + GOLDEN) ^ under)


def fractions(words: Words) -> NDArray[np.float64]:
    """The upper 53 bits, read as fractions in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(words: Words, bound: Words) -> NDArray[np.int64]:
    """Scale the upper 32 bits, read as a fraction in [0, 1), to integers below `bound` (below 2^32)."""
    return (((words >> np.uint64(32)) * bound) >> np.uint64(32)).astype(np.int64)


def permuted(positions: Words, sizes: int | Words, keys: np.uint64 | Words) -> Words:
    """Permute 0 .. size - 1: where each position below its size goes under its key, in constant memory.

    `sizes` and `keys` hold for all positions or are given for each; equal (size, key) share one permutation. A Feistel
    network permutes the next even power of two, at most four times the size; following its cycle from a position below
    the size to the next value below it is itself a permutation (Black and Rogaway 2002).
    """
    sizes = np.broadcast_to(np.asarray(sizes, np.uint64), positions.shape)
    keys = np.broadcast_to(keys, positions.shape)
    half = _half_bits(sizes)
    out = _feistel(positions, half, keys)
    outside = np.flatnonzero(out >= sizes)
    while outside.size:
        out[outside] = _feistel(out[outside], half[outside], keys[outside])
        outside = outside[out[outside] >= sizes[outside]]
    return out


def _mix(words: Words) -> Words:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): a bijection of 64-bit words that scatters them."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _half_bits(sizes: Words) -> Words:
    """Bits of one half of the network: half the bits of size - 1, rounded up, at least 1 (sizes below 2^53)."""
    bits = np.frexp((sizes - np.uint64(1)).astype(np.float64))[1]
    half: Words = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    return half


def _feistel(words: Words, half: Words, keys: Words) -> Words:
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = words >> half, words & low
    for number in range(ROUNDS):
        left, right = right, left ^ (hashed(keys + np.uint64(number), right) & low)
    return (left << half) | right
