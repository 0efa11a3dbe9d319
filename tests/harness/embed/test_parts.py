"""Covers `parts`; tests/harness/stages/test_shared_embedding.py runs job shares of a study."""

from pathlib import Path

import numpy as np
import pytest

from harness.embed.parts import WHOLE, JobShare, Parts, discard_parts


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_job_shares_partition_the_parts(tmp_path: Path, count: int) -> None:
    parts = Parts(tmp_path, np.arange(23), 5)
    numbers = [number for share in range(count) for number in parts.of(JobShare(share, count))]
    assert sorted(numbers) == list(range(len(parts))) == [0, 1, 2, 3, 4]
    assert np.concatenate([parts.wells_of(number) for number in range(len(parts))]).tolist() == list(range(23))


def test_missing_parts_are_those_without_a_file(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "embedding-0", np.arange(23), 5)
    assert parts.missing() == list(parts.of(WHOLE))
    parts.folder.mkdir()
    for number in (1, 3):
        parts.path(number).touch()
    assert parts.missing() == [0, 2, 4]


def test_discarding_removes_the_parts_of_all_settings_and_nothing_else(tmp_path: Path) -> None:
    for name in ("embedding-0", "embedding-1", "checkpoints"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    discard_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize(("number", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_an_invalid_job_share_is_refused(number: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"job share {number} is not one of {count}"):
        JobShare(number, count)
