"""Sketches are read back for recalls that are as they were, and never stand in the way of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.storage.gene_sketches import read_sketches, write_sketches

SKETCHES = {"CORUM": np.ones((2, 4)), "$x": np.arange(8.0).reshape(2, 4)}
RECALLS = {"CORUM": 0.5, "$x": 0.25}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_sketches(tmp_path / "new" / "s.npz", 1, RECALLS, SKETCHES)
    return tmp_path / "new" / "s.npz"


def test_they_come_back_by_source(path: Path) -> None:
    found = read_sketches(path, 1, RECALLS)
    assert list(found) == ["CORUM", "$x"]
    np.testing.assert_array_equal(found["$x"], SKETCHES["$x"])
    assert [file.name for file in path.parent.iterdir()] == ["s.npz"]


def test_those_of_another_recall_source_or_version_are_left(path: Path) -> None:
    assert list(read_sketches(path, 1, {"CORUM": 0.6, "$x": 0.25, "other": 0.5})) == ["$x"]
    assert read_sketches(path, 2, RECALLS) == {}


def test_the_same_sketches_are_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_sketches(tmp_path / "again.npz", 1, RECALLS, SKETCHES)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_a_file_that_is_missing_torn_or_another_is_no_file(path: Path, tmp_path: Path) -> None:
    assert read_sketches(tmp_path / "none.npz", 1, RECALLS) == {}
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:-30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert read_sketches(path, 1, RECALLS) == {}
    np.savez(path, version=1)
    assert read_sketches(path, 1, RECALLS) == {}
