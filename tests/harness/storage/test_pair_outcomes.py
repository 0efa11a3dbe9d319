"""Outcomes are read back for recalls that are as they were, and never stand in the way of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.recall.outcomes import PairOutcomes
from harness.storage.pair_outcomes import read_outcomes, write_outcomes

GENES = ("A", "B", "C")
FIRST, SECOND = np.array([0, 0, 1]), np.array([1, 2, 2])
OUTCOMES = [
    PairOutcomes("CORUM", GENES, FIRST, SECOND, np.array([1.0, 0.0, 1 / 3])),
    PairOutcomes("$x", GENES, FIRST[:2], SECOND[:2], np.array([0.0, 0.5])),
]
RECALLS = {"CORUM": 4 / 9, "$x": 0.25}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_outcomes(tmp_path / "new" / "pairs.npz", OUTCOMES)
    return tmp_path / "new" / "pairs.npz"


def test_they_come_back_by_source(path: Path) -> None:
    found = read_outcomes(path, RECALLS)
    assert list(found) == ["CORUM", "$x"]
    assert found["CORUM"].genes == GENES
    np.testing.assert_array_equal(found["$x"].second, SECOND[:2])
    np.testing.assert_allclose(found["CORUM"].recalled, OUTCOMES[0].recalled, atol=1e-7)
    assert [file.name for file in path.parent.iterdir()] == ["pairs.npz"]


def test_those_of_another_recall_or_source_are_left(path: Path) -> None:
    assert list(read_outcomes(path, {"CORUM": 0.6, "$x": 0.25, "other": 0.5})) == ["$x"]


def test_the_same_outcomes_are_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_outcomes(tmp_path / "again.npz", OUTCOMES)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_a_file_that_is_missing_torn_or_another_is_no_file(path: Path, tmp_path: Path) -> None:
    assert read_outcomes(tmp_path / "none.npz", RECALLS) == {}
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:-30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert read_outcomes(path, RECALLS) == {}
    np.savez(path, version=1)
    assert read_outcomes(path, RECALLS) == {}


@pytest.mark.parametrize(
    ("first", "recalled"),
    [([0, 0, 3], [1.0, 0.0, 1.0]), ([0, -1, 1], [1.0, 0.0, 1.0]), ([0, 0, 1], [1.0, np.nan, 1.0])],
    ids=["no such gene", "negative", "not finite"],
)
def test_outcomes_that_are_not_of_its_genes_are_left(path: Path, first: list[int], recalled: list[float]) -> None:
    write_outcomes(path, [PairOutcomes("CORUM", GENES, np.array(first), SECOND, np.array(recalled))])
    assert read_outcomes(path, {"CORUM": 2 / 3}) == {}
