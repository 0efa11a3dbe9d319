"""Rows in a mapped file: what is read back is what was written, for any parts in any order."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.tables import mapped_rows
from shards.tables.mapped_rows import Rows

CELLS = st.text(max_size=5)
PARTS = st.lists(st.lists(st.tuples(CELLS, st.integers(-(2**62), 2**62)), max_size=7), min_size=1, max_size=5)


def frame(part: list[tuple[str, int]]) -> pd.DataFrame:
    """A part of a column of text and one of integers."""
    texts, numbers = (list(column) for column in zip(*part, strict=True)) if part else ([], [])
    return pd.DataFrame({"text": pd.Series(texts, dtype=str), "number": pd.Series(numbers, dtype=np.int64)})


@settings(max_examples=50)
@given(parts=PARTS, at_once=st.integers(1, 8), data=st.data())
def test_any_rows_in_any_order_are_those_of_the_joined_parts(parts, at_once, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped_rows, "PART_ROWS", at_once)
        stored = Rows.write(map(frame, parts))
    joined = pd.concat(map(frame, parts), ignore_index=True)
    assert len(stored) == len(joined)
    assert stored.columns == ["text", "number"]
    numbers = np.array(data.draw(st.lists(st.integers(0, len(joined) - 1)) if len(joined) else st.just([])), np.int64)
    pd.testing.assert_frame_equal(stored.take(numbers), joined.iloc[numbers].reset_index(drop=True))
    pd.testing.assert_frame_equal(
        stored.take(numbers, ["number"]), joined.iloc[numbers][["number"]].reset_index(drop=True)
    )


@settings(max_examples=50)
@given(parts=PARTS)
def test_rows_are_sorted_by_the_bytes_of_a_text_and_equal_ones_stay_in_order(parts):
    stored, joined = Rows.write(map(frame, parts)), pd.concat(map(frame, parts), ignore_index=True)
    expected = sorted(range(len(joined)), key=lambda number: joined["text"].iloc[number].encode())
    assert stored.argsort("text").tolist() == expected


def test_the_file_of_rows_has_no_name(tmp_path):
    stored = Rows.write([frame([("a", 1), ("b", 2)])], tmp_path)
    assert stored.take(np.array([1, 0]))["text"].tolist() == ["b", "a"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_rows_take_no_memory_of_the_process(tmp_path):
    """400 MB of rows are written and read back in a few tens of MB beyond what Arrow and pandas take themselves."""
    code = f"""
import re
import numpy as np, pandas as pd
from shards.tables.mapped_rows import Rows
used = lambda: int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
part = lambda b: pd.DataFrame({{"key": [f"{{b:04d}}{{n:016d}}" * 5 for n in range(50_000)]}})
Rows.write([part(0)], {str(tmp_path)!r}).argsort("key")
before = used()
rows = Rows.write((part(b) for b in range(80)), {str(tmp_path)!r})
print(len(rows), rows.table.nbytes // 2**20, used() - before)
order = rows.argsort("key")[::-1]
for begin in range(0, len(order), 50_000):
    rows.take(order[begin : begin + 50_000])
print(used() - before)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, size, written, read = map(int, ended.stdout.split())
    assert (count, size) == (4_000_000, 411)
    assert written < 50
    assert read < 150  # of which 32 MB are the numbers of the rows in order
