"""Covers `philox` with NumPy's generator as oracle."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.models.layers.philox import uniform

WORD = st.integers(0, 2**64 - 1)


@settings(deadline=None)  # the first call compiles
@given(seed=WORD, positions=st.lists(WORD, max_size=4), values=st.integers(0, 40), stream=WORD)
def test_the_numbers_are_numpys(seed: int, positions: list[int], values: int, stream: int) -> None:
    found = uniform(seed, np.array(positions, np.uint64), values, stream)
    assert found.shape == (len(positions), values)
    for row, position in zip(found, positions, strict=True):
        key, counter = np.array([seed, position], np.uint64), np.array([0, 0, 0, stream], np.uint64)
        expected = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(values, dtype=np.float32)
        np.testing.assert_array_equal(row, expected)
