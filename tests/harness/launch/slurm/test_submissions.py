"""Covers `submissions`: the file survives interrupted writers, and its newest entry of a task counts."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from slurm_stubs import Stubs

from harness.launch.slurm.commands import SlurmError
from harness.launch.slurm.submissions import Submissions, SubmissionsError, Submitted, SubmittedArray


def array(name: str, *, attempt: int = 1, cells: tuple[str, ...] = ("a", "b")) -> SubmittedArray:
    return SubmittedArray(name, "train", cells, (attempt,) * len(cells), f"/jobs/{name}", 4)


def test_entries_are_read_back_and_the_newest_of_a_task_counts(tmp_path: Path) -> None:
    submissions = Submissions(tmp_path)
    with submissions.locked():
        for name, number in (("first", "10"), ("second", "11")):
            submissions.plan(array(name, attempt=int(number) - 9))
            submissions.submitted(name, number)
        submissions.plan(array("single", attempt=3, cells=("b",)))
        submissions.submitted("single", "12")
        submissions.set_throttle("second", 2)
    stored = Submissions(tmp_path)
    assert stored.entries == submissions.entries
    assert [entry.throttle for entry in stored.entries] == [4, 2, 4]
    assert stored.latest() == {
        ("a", "train"): Submitted("11_0", 2, Path("/jobs/second")),
        ("b", "train"): Submitted("12", 3, Path("/jobs/single")),  # an array of one is a plain job
    }


def test_entries_of_a_writer_that_died_get_slurms_id_or_are_dropped(tmp_path: Path, stubs: Stubs) -> None:
    interrupted = Submissions(tmp_path)
    for name in ("accepted", "refused"):
        interrupted.plan(array(name))
    assert interrupted.latest() == {}
    stubs.answer("squeue", "Welcome\nCLUSTER: nautilus\n31|accepted\n31|accepted\n32|of-another-study\n\n")
    submissions = Submissions(tmp_path)
    with submissions.locked():
        assert [(entry.name, entry.array) for entry in submissions.entries] == [("accepted", "31")]
    assert Submissions(tmp_path).entries == submissions.entries


def test_an_entry_is_kept_while_squeue_does_not_say_whether_slurm_took_it(tmp_path: Path, stubs: Stubs) -> None:
    Submissions(tmp_path).plan(array("accepted"))
    for printed, messages in (("The cluster is down\n", ""), ("", "slurm_load_jobs error: Socket timed out\n")):
        stubs.answer("squeue", printed, messages)
        submissions = Submissions(tmp_path)
        with pytest.raises(SlurmError), submissions.locked():
            pass
        assert [entry.name for entry in Submissions(tmp_path).entries] == ["accepted"]


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "jobs" / "book.json"
    path.parent.mkdir()
    path.write_text('{"version": 1}')
    with pytest.raises(SubmissionsError, match=r"jobs/book\.json: not a submissions file"):
        Submissions(tmp_path)


ENTRY = asdict(replace(array("first"), array="10"))
ODD_ENTRIES: dict[str, tuple[object, str]] = {
    "an option for a job": ({**ENTRY, "array": "--user=root"}, "entries.0.array"),
    "a job and a command": ({**ENTRY, "array": "7;id"}, "entries.0.array"),
    "fewer attempts than cells": ({**ENTRY, "attempts": [1]}, "2 cells and 1 attempts"),
    "attempts as text": ({**ENTRY, "attempts": ["1", "1"]}, "entries.0.attempts.0"),
    "a huge attempt": ({**ENTRY, "attempts": [10**30, 1]}, "entries.0.attempts.0"),
    "cells as text": ({**ENTRY, "cells": "ab"}, "entries.0.cells"),
    "another stage": ({**ENTRY, "stage": "sleep"}, "entries.0.stage"),
    "an unknown field": ({**ENTRY, "user": "root"}, "entries.0.user"),
    "a list": ([], "entries.0"),
    "null": (None, "entries.0"),
}


@pytest.mark.parametrize(("entry", "why"), ODD_ENTRIES.values(), ids=ODD_ENTRIES)
def test_an_odd_entry_is_refused_by_field(tmp_path: Path, entry: object, why: str) -> None:
    path = tmp_path / "jobs" / "book.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"version": 1, "entries": [entry]}))
    with pytest.raises(SubmissionsError) as caught:
        Submissions(tmp_path)
    assert str(caught.value).startswith(f"{path}: not a submissions file (")
    assert why in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b'{"version": 2, "entries": []}'])
def test_a_torn_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "jobs" / "book.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(SubmissionsError, match="not a submissions file"):
        Submissions(tmp_path)
