"""What a cell's folder says of work that stands still, and how often such a job is requeued."""

import json
import time
from pathlib import Path

import pytest

from harness.storage.health.stall import REQUEUED, STACKS, STALL, may_requeue, read_stall


def test_a_stall_is_told_with_its_age(tmp_path: Path) -> None:
    (tmp_path / STALL).write_text(json.dumps({"text": "rank 3 is not answering", "since": time.time() - 130}))
    found = read_stall(tmp_path)
    assert found is not None
    assert found.in_words.startswith("stalled for 2:1")
    assert found.in_words.endswith(": rank 3 is not answering")


@pytest.mark.parametrize("text", ["", "[]", '{"text": 3, "since": 1}', '{"text": "x", "since": "now"}'])
def test_what_is_no_stall_is_none(tmp_path: Path, text: str) -> None:
    assert read_stall(tmp_path) is None
    (tmp_path / STALL).write_text(text)
    assert read_stall(tmp_path) is None


@pytest.mark.parametrize("text", ["", "7", '{"job": "12"}', '{"job": "12", "step": "x", "times": null}'])
def test_a_damaged_count_begins_again(tmp_path: Path, text: str) -> None:
    (tmp_path / STACKS).mkdir()
    (tmp_path / STACKS / REQUEUED).write_text(text)
    assert [may_requeue(tmp_path, "12", 5) for _ in range(3)] == [True, True, False]


def test_another_job_counts_for_itself(tmp_path: Path) -> None:
    assert [may_requeue(tmp_path, "12", 5) for _ in range(3)] == [True, True, False]
    assert may_requeue(tmp_path, "13", 5)
