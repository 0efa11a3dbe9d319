"""The benchmark of the table of wells: both ways read the right keys from a set that can be opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import well_table as benchmark
from benchmarks.well_table import read_here, rows, write_set


@pytest.mark.parametrize("read", ["rows", "wells"])
def test_keys_are_read_in_both_ways(tmp_path: Path, read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "WRITTEN", 100)
    write_set(tmp_path, 250)
    assert read_here(tmp_path, read, 9)["seconds"] > 0  # which compares the keys


@pytest.mark.parametrize(("before", "met"), [(600e6, True), (90e6, False)])
def test_memory_is_compared_with_the_goal(before: float, met: bool) -> None:
    memory, time = rows(250, 9, {"seconds": 2.0, "bytes": 50e6}, {"seconds": 6.0, "bytes": before})
    assert (memory["ours"], memory["ratio"], memory["met"]) == (50, before / 50e6, met)
    assert (time["ratio"], time["met"]) == (3, None)
