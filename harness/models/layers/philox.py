"""Philox-4x64-10 (Salmon et al. 2011) for many keys at once, without the interpreter's lock.

The numbers are those of `numpy.random.Generator(numpy.random.Philox(key=(seed, position), counter=(0, 0, 0, stream)))`,
of which NumPy would make one for each row.

Shapes: N rows, V values of a row.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

MULTIPLIERS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
WEYL = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)  # added to the key after each round
ROUNDS = 10
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
UNUSED_BITS, STEP = np.uint64(8), np.float32(2.0**-24)  # of 32 bits, a float32 takes the upper 24
VALUES = 8  # of a block of four words


def uniform(seed: int, positions: NDArray[np.uint64], values: int, stream: int) -> NDArray[np.float32]:
    """Draw `values` numbers in [0, 1) for each position: (N, V). A shorter row is a prefix of a longer one."""
    numbers = np.empty((len(positions), values), np.float32)
    _fill(np.uint64(seed), positions, np.uint64(stream), numbers)
    return numbers


@njit(nogil=True, cache=True)
def _upper_product(a: np.uint64, b: np.uint64) -> np.uint64:
    """The upper 64 bits of a product of 128."""
    a_low, a_high, b_low, b_high = a & LOW, a >> HALF, b & LOW, b >> HALF
    one, other = a_low * b_high, a_high * b_low
    carried = ((a_low * b_low) >> HALF) + (one & LOW) + (other & LOW)
    return a_high * b_high + (one >> HALF) + (other >> HALF) + (carried >> HALF)


@njit(nogil=True, cache=True)
def _fill(seed: np.uint64, positions: NDArray[np.uint64], stream: np.uint64, numbers: NDArray[np.float32]) -> None:
    rows, values = numbers.shape
    words = np.empty(VALUES // 2, np.uint64)
    for row in range(rows):
        for block in range((values + VALUES - 1) // VALUES):
            # NumPy increments the counter before its first block.
            words[0], words[1], words[2], words[3] = np.uint64(block + 1), np.uint64(0), np.uint64(0), stream
            first_key, second_key = seed, positions[row]
            for _ in range(ROUNDS):
                first_upper, first_lower = _upper_product(MULTIPLIERS[0], words[0]), MULTIPLIERS[0] * words[0]
                second_upper, second_lower = _upper_product(MULTIPLIERS[1], words[2]), MULTIPLIERS[1] * words[2]
                words[0], words[1] = second_upper ^ words[1] ^ first_key, second_lower
                words[2], words[3] = first_upper ^ words[3] ^ second_key, first_lower
                first_key, second_key = first_key + WEYL[0], second_key + WEYL[1]
            for place in range(min(VALUES, values - block * VALUES)):
                word = words[place // 2]
                half = word >> HALF if place % 2 else word & LOW
                numbers[row, block * VALUES + place] = np.float32(half >> UNUSED_BITS) * STEP
