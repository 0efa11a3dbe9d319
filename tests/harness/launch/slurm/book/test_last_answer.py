"""Covers `last_answer`, and `evidence.last_known_states` with it: what is known of jobs while SLURM does not answer."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import pytest
from slurm_stubs import Stubs

from harness.launch.slurm.book import last_answer
from harness.launch.slurm.book.entries import SubmittedArray
from harness.launch.slurm.book.evidence import known_states, last_known_states
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.commands import BRIEF, NoAnswerError
from harness.launch.slurm.heartbeat import heartbeat
from harness.launch.slurm.job_states import JobState
from harness.storage.atomic import write_json

HEADER = "JOBID|ARRAY_JOB_ID_ARRAY_TASK_ID|STATE|REASON\n"
ANSWER = f"{HEADER}9|5_0|RUNNING|None\n10|5_1|PENDING|Resources\n11|5_2|FAILED|NonZeroExitCode\n"


def submitted(output: Path, number: str, *cells: str) -> Submissions:
    submissions = Submissions(output)
    submissions.plan(SubmittedArray(f"array-{number}", "train", cells, (1,) * len(cells), "/jobs/array", 4))
    submissions.submitted(f"array-{number}", number)
    return submissions


def test_the_last_answer_is_shown_with_what_files_know_since(tmp_path: Path, stubs: Stubs) -> None:
    """Jobs 5 are in the answer; 6 was submitted later. Since then 5_1 has begun, and 5_2 is recorded as lost."""
    stubs.answer("squeue", ANSWER)
    submissions = submitted(tmp_path, "5", "a", "b", "c")
    before = datetime.now().astimezone()
    known_states(tmp_path, submissions)
    submitted(tmp_path, "6", "d")
    submissions = Submissions(tmp_path)
    write_json(heartbeat(tmp_path / "cells" / "b", "train"), {"job": "5_1", "restart": 0, "time": time.time()})
    submissions.record_ended({"5_2": JobState("NODE_FAIL")})
    stubs.answer("squeue", messages="slurm_load_jobs error: Unable to contact slurm controller\n", status=1)
    with pytest.raises(NoAnswerError, match="asked 2 times"):
        known_states(tmp_path, submissions, patience=BRIEF)
    known, as_of = last_known_states(tmp_path, submissions, ["5_0", "5_1", "5_2", "6"])
    assert known == {
        "5_0": JobState("RUNNING", "None"), "5_1": JobState("RUNNING"), "5_2": JobState("NODE_FAIL"),
        "6": JobState("PENDING", "as submitted"),
    }  # fmt: skip
    assert before <= as_of <= datetime.now().astimezone()


def test_a_later_answer_about_some_jobs_keeps_what_was_said_of_others(tmp_path: Path) -> None:
    last_answer.write(tmp_path, {"5_0": JobState("RUNNING"), "5_1": JobState("PENDING", "Priority")})
    last_answer.write(tmp_path, {"5_0": JobState("COMPLETED")})
    answer = last_answer.read(tmp_path)
    assert answer is not None
    assert answer.states == {"5_0": JobState("COMPLETED"), "5_1": JobState("PENDING", "Priority")}


ODD = [
    b"",
    b"[]",
    b"{",
    b'{"time": 1, "jobs": {"--uid=0": ["RUNNING", ""]}}',
    b'{"time": 1e999, "jobs": {}}',
    b"[" * 10**5,
]


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_a_damaged_answer_is_none(tmp_path: Path, content: bytes) -> None:
    submissions = submitted(tmp_path, "5", "a")
    (submissions.path.parent / last_answer.FILE).write_bytes(content)
    assert last_answer.read(submissions.path.parent) is None
    known, as_of = last_known_states(tmp_path, submissions, ["5"])
    assert known == {"5": JobState("PENDING", "as submitted")}
    assert as_of.timestamp() == pytest.approx(submissions.path.stat().st_mtime)


def test_who_may_not_write_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    last_answer.write(tmp_path / "file", {"5": JobState("RUNNING")})
    last_answer.write(tmp_path, {"5": JobState("PENDING", "a\x00b")})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
