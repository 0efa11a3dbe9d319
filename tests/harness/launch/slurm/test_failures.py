"""Covers `failures`: the first cause among the ranks' exceptions, and which failures are transient."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.launch.slurm.book.entries import Submitted
from harness.launch.slurm.failures import (
    Cause,
    Failure,
    cause,
    cause_of,
    first_failure,
    last_words,
    record_failure,
)
from harness.launch.slurm.heartbeat import heartbeat
from harness.launch.slurm.job_states import NEVER, REPLACED, UNKNOWN, JobState

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.7]:61825. This is"


def failure(rank: int, kind: str, message: str = "reason", restart: int = 0) -> Failure:
    return Failure("train", 1, rank, "7_0", kind, message, "Traceback ...", restart)


def test_the_first_cause_is_not_what_other_ranks_raised_because_of_it(tmp_path: Path) -> None:
    for rank, kind in enumerate(("DistBackendError", "ValueError", "OSError")):
        record_failure(tmp_path, failure(rank, kind))
        os.utime(tmp_path / "failures" / f"train-1-{rank}.json", (rank, rank))
    first = first_failure(tmp_path, "train", 1)
    assert first is not None
    assert (first.rank, first.kind) == (1, "ValueError")
    assert first_failure(tmp_path, "train", 2) is None
    assert first_failure(tmp_path, "embed", 1) is None


def test_a_lost_connection_counts_if_no_rank_raised_anything_else(tmp_path: Path) -> None:
    record_failure(tmp_path, failure(3, "DistStoreError"))
    assert first_failure(tmp_path, "train", 1) == failure(3, "DistStoreError")


def test_what_a_rank_raised_after_a_stall_counts_before_it(tmp_path: Path) -> None:
    for rank, kind in enumerate(("Stalled", "ValueError")):
        record_failure(tmp_path, failure(rank, kind))
        os.utime(tmp_path / "failures" / f"train-1-{rank}.json", (rank, rank))
    first = first_failure(tmp_path, "train", 1)
    assert first is not None
    assert first.kind == "ValueError"


def test_what_ended_an_earlier_restart_is_not_why_the_last_one_ended(tmp_path: Path) -> None:
    """What a rank raised before the job was requeued must not make the job's later time-out a permanent failure."""
    record_failure(tmp_path, failure(0, "OSError", "stale file handle"))
    submitted = Submitted("7_0", 1, tmp_path)
    assert cause_of(tmp_path, "train", submitted, JobState("TIMEOUT")).verdict == "permanent"
    heartbeat(tmp_path, "train").write_text(json.dumps({"job": "7_0", "time": 1.0, "restart": 1}))
    assert cause_of(tmp_path, "train", submitted, JobState("TIMEOUT")) == Cause("the time limit", "transient")
    record_failure(tmp_path, failure(1, "OSError", restart=1))
    assert first_failure(tmp_path, "train", 1) == failure(1, "OSError", restart=1)


@pytest.mark.parametrize(
    ("state", "raised", "expected"),
    [
        ("OUT_OF_MEMORY", None, Cause("out of memory", "permanent")),
        ("FAILED", failure(0, "ValueError", "no images\ndetails"), Cause("ValueError: no images", "permanent")),
        ("NODE_FAIL", failure(0, "DistBackendError"), Cause("a node failed", "transient")),
        ("NODE_FAIL", failure(0, "RuntimeError", GLOO), Cause("a node failed", "transient")),
        ("FAILED", failure(0, "RuntimeError", "size mismatch"), Cause("RuntimeError: size mismatch", "permanent")),
        ("TIMEOUT", failure(0, "Preempted"), Cause("the time limit", "transient")),
        ("CANCELLED", failure(0, "Preempted"), Cause("cancelled", "cancelled")),
        ("PREEMPTED", failure(0, "Preempted"), Cause("preempted", "transient")),
        ("FAILED", failure(0, "Preempted", "SIGUSR2; saved"), Cause("told to stop: SIGUSR2; saved", "transient")),
        ("FAILED", failure(0, "Stalled", "rank 3"), Cause("stalled: rank 3", "transient")),
        ("CANCELLED", failure(0, "Stalled", "rank 3"), Cause("cancelled", "cancelled")),
        ("FAILED", None, Cause("failed, and no reason was recorded: killed?", "transient")),
    ],
)
def test_exceptions_and_memory_are_permanent_and_the_cluster_is_transient(
    state: str, raised: Failure | None, expected: Cause
) -> None:
    assert cause(JobState(state), raised) == expected


def test_a_job_that_did_not_begin_says_what_its_log_says_and_is_not_tried_again() -> None:
    found = cause(JobState("FAILED"), None, began=False, said="module: command not found")
    assert found == Cause("failed before it began: module: command not found", "permanent")
    assert cause(JobState("FAILED"), None, began=False).text == "failed before it began, and its log is empty"
    assert cause(JobState("NODE_FAIL"), None, began=False).verdict == "transient"
    assert cause(JobState("COMPLETED"), None, began=False).verdict == "transient"
    assert cause(JobState("FAILED"), failure(0, "Fenced"), began=False).verdict == "transient"


def test_the_last_words_of_a_log_are_its_last_error_not_the_progress_after_it(tmp_path: Path) -> None:
    (tmp_path / "7_0_0_log.err").write_text(
        "loading\nOSError: [Errno 28] No space left on device\n  10%|#   | 1/10\r  20%|##  | 2/10"
    )
    (tmp_path / "7_1_0_log.err").write_text("one\ntwo\n")
    (tmp_path / "7_2_0_log.err").write_text("")
    assert last_words(tmp_path, "7_0") == "OSError: [Errno 28] No space left on device"
    assert last_words(tmp_path, "7_1") == "two"
    assert last_words(tmp_path, "7_2") == last_words(tmp_path, "8_0") == ""


def test_a_heartbeat_says_that_a_job_began(tmp_path: Path) -> None:
    logs = tmp_path / "jobs"
    logs.mkdir()
    (logs / "7_0_0_log.err").write_text("srun: error: node3: task 0: Killed\n")
    submitted = Submitted("7_0", 1, logs)
    assert cause_of(tmp_path, "train", submitted, JobState("FAILED")) == Cause(
        "failed before it began: srun: error: node3: task 0: Killed", "permanent"
    )
    heartbeat(tmp_path, "train").write_text(json.dumps({"job": "7_0", "time": 1.0, "restart": 0}))
    assert cause_of(tmp_path, "train", submitted, JobState("FAILED")) == Cause(
        "failed, and no reason was recorded: srun: error: node3: task 0: Killed", "transient"
    )


def test_unknown_jobs_and_unsatisfied_dependencies_are_transient() -> None:
    assert cause(UNKNOWN, None).verdict == "transient"
    assert cause(JobState("PENDING", NEVER), None).verdict == "transient"
    assert cause(JobState("CANCELLED", NEVER), None) == Cause("a job that it depends on failed", "transient")
    assert cause(JobState("CANCELLED", REPLACED), None) == Cause("replaced by a newer submission", "transient")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"stage": 1}', b"\xff\xfe", b"[" * 100_000, b'{"kind": "x", "command": "y"}']
)
def test_a_damaged_record_is_named_and_comes_after_the_others(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "failures" / "train-1-0.json"
    path.parent.mkdir()
    path.write_bytes(content)
    only = first_failure(tmp_path, "train", 1)
    reason = cause(JobState("FAILED"), only)
    assert reason.verdict == "permanent"
    assert f"{path} is not the record of a failure" in reason.text
    record_failure(tmp_path, failure(1, "ValueError"))
    assert first_failure(tmp_path, "train", 1) == failure(1, "ValueError")


def test_a_reason_is_one_line_without_control_characters() -> None:
    reason = cause(JobState("FAILED"), failure(0, "ValueError", "\x1b[2Jcleared" + "x" * 9999 + "\nmore"))
    assert reason.text.startswith("ValueError: ?[2Jcleared")
    assert len(reason.text) < 600


def test_a_job_that_is_told_to_stop_before_it_listens_may_be_tried_again() -> None:
    """srun's own words, from SLURM 22.05; anything else before the beginning would repeat."""
    said = "srun: error: node1: tasks 0-1: User defined signal 2"
    expected = Cause("told to stop while it was starting", "transient")
    assert cause(JobState("FAILED"), None, began=False, said=said) == expected
    assert cause(JobState("FAILED"), None, began=False, said="python: not found").verdict == "permanent"
