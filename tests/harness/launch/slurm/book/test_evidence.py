"""Covers `evidence`: what may be live is not worked on twice, whoever submitted it and whatever SLURM shows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from slurm_stubs import Stubs

from harness.launch.slurm.book.entries import SubmittedArray
from harness.launch.slurm.book.evidence import (
    UnaccountedError,
    known_states,
    refuse_attended,
    refuse_jobs,
    refuse_others,
    refuse_strangers,
)
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.heartbeat import SILENT_SECONDS, heartbeat
from harness.launch.slurm.job_states import UNKNOWN, JobState
from harness.storage.atomic import write_json
from harness.storage.fencing import Fence, Start

HEADER = "JOBID|ARRAY_JOB_ID_ARRAY_TASK_ID|STATE|REASON\n"


@pytest.fixture
def slurm(stubs: Stubs) -> Stubs:
    """An empty queue, and no accounting."""
    stubs.answer("squeue", HEADER)
    stubs.answer("sacct", messages="Slurm accounting storage is disabled\n", status=1)
    return stubs


def submitted(output: Path, number: str, *cells: str, stage: str = "train", user: str = "") -> Submissions:
    submissions = Submissions(output)
    name = f"array-{number}"
    submissions.plan(SubmittedArray(name, stage, cells, (1,) * len(cells), f"/jobs/{name}", 4, user=user))
    submissions.submitted(name, number)
    return Submissions(output)


def beat(output: Path, cell: str, job: str, age: float = 0.0, **more: str) -> None:
    write_json(
        heartbeat(output / "cells" / cell, "train"), {"job": job, "restart": 0, "time": time.time() - age, **more}
    )


def test_a_job_that_slurm_does_not_show_runs_while_its_heart_beats(tmp_path: Path, slurm: Stubs) -> None:
    submissions = submitted(tmp_path, "5", "a", "b", "c")
    beat(tmp_path, "a", "5_0")
    beat(tmp_path, "b", "5_1", age=2 * SILENT_SECONDS)
    beat(tmp_path, "c", "4_2")
    assert known_states(tmp_path, submissions) == {"5_0": JobState("RUNNING"), "5_1": UNKNOWN, "5_2": UNKNOWN}
    slurm.answer("squeue", f"{HEADER}9|5_0|FAILED|None\n")
    assert known_states(tmp_path, submissions, ["5_0"]) == {"5_0": JobState("FAILED", "None")}, "SLURM knows better"


def test_slurm_is_asked_for_the_jobs_of_all_who_submitted_and_not_again_for_what_ended(
    tmp_path: Path, slurm: Stubs
) -> None:
    submissions = submitted(tmp_path, "5", "a", user="alice")
    known_states(tmp_path, submissions)
    assert "alice" in slurm.calls("squeue")[0]
    assert len(slurm.calls("sacct")) == 1
    submissions.record_ended({"5": JobState("COMPLETED")})
    assert known_states(tmp_path, submissions) == {"5": JobState("COMPLETED")}
    assert len(slurm.calls("sacct")) == 1
    slurm.answer("squeue", f"{HEADER}5|5_N/A|PENDING|BeginTime\n")
    assert known_states(tmp_path, submissions)["5"].is_live, "somebody has requeued it"


@pytest.mark.parametrize(
    ("state", "is_refused"),
    [(UNKNOWN, True), (JobState("PENDING"), True), (JobState("RUNNING"), True), (JobState("COMPLETED"), False)],
)
def test_nothing_is_submitted_beside_jobs_of_another_user(tmp_path: Path, state: JobState, is_refused: bool) -> None:
    submissions = submitted(tmp_path, "5", "a", "b", user="alice")
    submissions = submitted(tmp_path, "6", "c")
    known = {"5_0": JobState("FAILED"), "5_1": state, "6": UNKNOWN}
    if is_refused:
        with pytest.raises(UnaccountedError, match=rf"{tmp_path} holds a study of alice, .* ended: 5_1; nothing was"):
            refuse_others(submissions, known, "nothing was done")
    else:
        refuse_others(submissions, known, "nothing was done")


def test_a_report_of_another_user_that_is_not_known_hinders_nobody(tmp_path: Path) -> None:
    submissions = submitted(tmp_path, "5", stage="report", user="alice")
    refuse_others(submissions, {"5": UNKNOWN}, "nothing was done")
    with pytest.raises(UnaccountedError, match="alice"):
        refuse_others(submissions, {"5": JobState("PENDING")}, "nothing was done")


def test_an_array_of_another_user_without_an_id_may_be_live(tmp_path: Path) -> None:
    submissions = Submissions(tmp_path)
    submissions.plan(SubmittedArray("theirs", "train", ("a",), (1,), "/jobs/theirs", 4, user="alice"))
    with pytest.raises(UnaccountedError, match="ended: theirs;"):
        refuse_others(submissions, {}, "nothing was done")


def test_live_jobs_that_nothing_is_known_of_are_named(tmp_path: Path) -> None:
    refuse_strangers(Submissions(tmp_path), {})
    with pytest.raises(UnaccountedError, match=r"book\.jsonl does not have .*: 7 \(study-train-1\); nothing was"):
        refuse_strangers(Submissions(tmp_path), {"7": "study-train-1"})


TASKS = [("a", "train"), ("b", "train")]


def test_a_recent_heartbeat_of_a_job_that_is_not_accounted_for_is_refused_with_its_user(
    tmp_path: Path, slurm: Stubs
) -> None:
    beat(tmp_path, "b", "5_1", age=12, user="alice", host="node3")
    refuse_attended(tmp_path, TASKS, {"5_1"})
    refuse_attended(tmp_path, [("b", "embed")], ())
    with pytest.raises(
        UnaccountedError, match=r"b: job 5_1 of alice works .* train .* 1[2-9] s ago from node3; nothing"
    ):
        refuse_attended(tmp_path, TASKS, ())
    slurm.answer("squeue", f"{HEADER}9|5_1|CANCELLED|None\n")
    refuse_attended(tmp_path, TASKS, ())
    slurm.answer("squeue", messages="slurm_load_jobs error: Socket timed out\n", status=1)
    with pytest.raises(UnaccountedError, match="alice"):
        refuse_attended(tmp_path, TASKS, ())


@pytest.mark.parametrize("job", ["--user=root", "5;id", "", "5_1_2", "9" * 40])
def test_what_is_no_job_is_neither_asked_about_nor_evidence(tmp_path: Path, slurm: Stubs, job: str) -> None:
    beat(tmp_path, "a", job, user="alice")
    Fence(tmp_path / "cells" / "a", "train", Start(1, 0, job))
    refuse_attended(tmp_path, TASKS, ())
    assert slurm.calls("squeue") == slurm.calls("sacct") == []


def test_a_heartbeats_texts_cannot_control_a_terminal(tmp_path: Path, slurm: Stubs) -> None:
    beat(tmp_path, "a", "5", user="a\x1b[2J", host="h\x07")
    with pytest.raises(UnaccountedError, match=r"a: job 5 of a\?\[2J works .* from h\?; nothing"):
        refuse_attended(tmp_path, TASKS, ())


def test_a_fence_of_another_user_is_evidence_until_slurm_says_otherwise(
    tmp_path: Path, slurm: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cells" / "a").mkdir(parents=True)
    Fence(tmp_path / "cells" / "a", "train", Start(2, 1, "5_0"))
    refuse_attended(tmp_path, TASKS, ())  # this user's, whom SLURM would show it
    monkeypatch.setattr("harness.launch.slurm.book.evidence.file_owner", lambda path: "alice")
    with pytest.raises(UnaccountedError, match=r"a: job 5_0 of alice .*fence-train\.json \(delete that file if"):
        refuse_attended(tmp_path, TASKS, ())
    slurm.answer("squeue", f"{HEADER}9|5_0|COMPLETED|None\n")
    refuse_attended(tmp_path, TASKS, ())


def test_cells_do_not_run_on_this_machine_beside_jobs(tmp_path: Path, stubs: Stubs) -> None:
    """Without SLURM's commands, as on a laptop that shares the files, heartbeats tell."""
    refuse_jobs(tmp_path, TASKS)
    submitted(tmp_path, "5", "a", "b")
    refuse_jobs(tmp_path, TASKS)
    beat(tmp_path, "b", "5_1", user="alice")
    with pytest.raises(UnaccountedError, match="b: job 5_1 of alice works"):
        refuse_jobs(tmp_path, TASKS)
    stubs.answer("squeue", f"{HEADER}9|5_0|PENDING|Priority\n9|5_1|COMPLETED|None\n")
    with pytest.raises(UnaccountedError, match=r"live for .*: 5_0; nothing was started. `cancel` ends them"):
        refuse_jobs(tmp_path, TASKS)


def test_accounting_is_asked_for_the_newest_job_of_a_task_alone_unless_an_earlier_one_beats(
    tmp_path: Path, slurm: Stubs
) -> None:
    for number in ("5", "6", "7"):
        submissions = submitted(tmp_path, number, "a")
    assert set(known_states(tmp_path, submissions)) == {"5", "6", "7"}
    assert [call.split()[-1] for call in slurm.calls("sacct")] == ["7"]
    beat(tmp_path, "a", "6")
    assert known_states(tmp_path, submissions) == {"5": UNKNOWN, "6": JobState("RUNNING"), "7": UNKNOWN}
    assert [call.split()[-1] for call in slurm.calls("sacct")][1:] == ["7", "6"]


def test_thousands_of_jobs_take_a_call_of_squeue_and_one_of_sacct(tmp_path: Path, slurm: Stubs) -> None:
    submissions = submitted(tmp_path, "5", *(f"c{n}" for n in range(3000)))
    for cell in range(2000):
        name = f"single-{cell}"
        submissions.plan(SubmittedArray(name, "embed", (f"c{cell}",), (1,), f"/jobs/{name}", 4))
        submissions.submitted(name, str(10 + cell))
    assert len(known_states(tmp_path, Submissions(tmp_path))) == 5000
    assert (len(slurm.calls("squeue")), len(slurm.calls("sacct"))) == (1, 1)
