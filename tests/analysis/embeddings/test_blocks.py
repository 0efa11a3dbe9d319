"""Blocks of wells: each well once, as float64, whatever the size of a block; sums of groups are those of pandas."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.embeddings import blocks
from analysis.embeddings.blocks import Corrected, blocks_of, coded, group_sums, rows_of_groups

VALUES = np.arange(40, dtype=np.float32).reshape(20, 2)
GROUPS = st.lists(st.integers(-1, 4), min_size=1, max_size=40).map(np.array)


@pytest.fixture(params=[1, 3, 7, 4096])
def block(request, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", request.param)
    return request.param


@pytest.mark.parametrize("chosen", [None, [0, 1, 2], [0, 2, 3, 4, 9, 19], []], ids=["all", "first", "some", "none"])
def test_every_chosen_row_comes_once_as_float64(block, chosen):
    rows = None if chosen is None else np.array(chosen, np.int64)
    parts = list(blocks_of(VALUES, rows))
    assert all(len(part) <= block and part.dtype == np.float64 for _, part in parts)
    found = [number for numbers, _ in parts for number in np.arange(20)[numbers]]
    assert found == (list(range(20)) if chosen is None else chosen)
    assert all((VALUES[numbers] == part).all() for numbers, part in parts)


def test_a_block_may_be_overwritten(block):
    for values in (VALUES.copy(), VALUES.astype(np.float64)):
        for _, part in blocks_of(values):
            part[:] = -1
        np.testing.assert_array_equal(values, VALUES)


def test_blocks_can_be_written_over_what_they_come_from(block):
    values = VALUES.copy()
    halves = Corrected(20, 1, ((rows, part[:, :1] / 2) for rows, part in blocks_of(values)))
    seen = halves.written_to(values).array()
    np.testing.assert_array_equal(seen[:, 0], VALUES[:, 0] / 2)
    np.testing.assert_array_equal(values[:, :1], seen)
    np.testing.assert_array_equal(Corrected(20, 2, blocks_of(VALUES)).array(), VALUES)


@pytest.mark.parametrize(
    ("names", "known", "codes"),
    [
        (["b", "a", "", "b"], ["", "a", "b"], [2, 1, 0, 2]),
        (np.array([10, 9, 10]), ["10", "9"], [0, 1, 0]),
        (np.array([1, "1", ""], dtype=object), ["", "1"], [1, 1, 0]),
        ([], [], []),
    ],
    ids=["text", "numbers", "mixed", "none"],
)
def test_names_are_numbered_in_the_order_of_their_text(names, known, codes):
    found, numbers = coded(names)
    assert (found, numbers.tolist()) == (known, codes)


@given(group=GROUPS, size=st.integers(1, 50))
def test_sums_of_groups_are_those_of_pandas(group, size):
    values = np.random.default_rng(0).normal(size=(len(group), 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        sums = group_sums(blocks_of(values), group, (5, 3))
    expected = pd.DataFrame(values).groupby(group).sum().reindex(range(5), fill_value=0)
    np.testing.assert_allclose(sums, expected, atol=1e-12)


@given(group=GROUPS)
def test_rows_of_groups_are_ascending_and_complete(group):
    rows = rows_of_groups(group, 5)
    assert [one.tolist() for one in rows] == [np.flatnonzero(group == number).tolist() for number in range(5)]
