"""Embeddings are joined from parts in order, with their provenance. Covers `embeddings`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.storage.embeddings import join_embeddings, read_embeddings, read_provenance, write_embeddings

KEYS = ["a", "b", "c", "d", "e"]
FEATURES = np.arange(15, dtype=np.float32).reshape(5, 3)


def write_parts(folder: Path) -> list[tuple[Path, list[str]]]:
    """Write two parts of 3 and 2 wells."""
    parts = []
    for number, rows in enumerate((slice(0, 3), slice(3, 5))):
        path = folder / f"{number}.parquet"
        wells = pd.DataFrame({"key": KEYS[rows], "gene": "PTEN", "not_metadata": 1})
        write_embeddings(path, wells, FEATURES[rows], {"fingerprint": "print"})
        parts.append((path, KEYS[rows]))
    return parts


@pytest.mark.parametrize("group_wells", [1, 65_536])
def test_parts_are_joined_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_wells: int) -> None:
    monkeypatch.setattr("harness.storage.embeddings.GROUP_WELLS", group_wells)
    path = tmp_path / "embeddings.parquet"
    assert join_embeddings(path, write_parts(tmp_path)) == 3
    wells, features = read_embeddings(path)
    assert list(wells) == ["key", "gene"]
    assert wells["key"].tolist() == KEYS
    np.testing.assert_array_equal(features, FEATURES)
    assert read_provenance(path) == {"fingerprint": "print"}


def test_a_damaged_part_is_removed_and_nothing_is_written(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    parts[1][0].write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"1\.parquet: damaged, and removed"):
        join_embeddings(tmp_path / "embeddings.parquet", parts)
    assert [path.name for path in tmp_path.iterdir()] == ["0.parquet"]


def test_a_part_with_other_wells_is_removed(tmp_path: Path) -> None:
    (path, _), last = write_parts(tmp_path)
    with pytest.raises(ValueError, match="it holds 3 wells that are not the 2 of this part"):
        join_embeddings(tmp_path / "embeddings.parquet", [(path, ["a", "b"]), last])
    assert not path.exists()
