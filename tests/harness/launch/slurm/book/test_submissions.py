"""Covers `submissions`, `lines`, `entries` and `earlier`: the file survives interrupted writers and damage."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from slurm_stubs import Stubs

from harness.launch.slurm.book import lines
from harness.launch.slurm.book.entries import Submitted, SubmittedArray
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.commands import SlurmError
from harness.launch.slurm.job_states import JobState


def array(name: str, *, attempt: int = 1, cells: tuple[str, ...] = ("a", "b"), user: str = "") -> SubmittedArray:
    return SubmittedArray(name, "train", cells, (attempt,) * len(cells), f"/jobs/{name}", 4, user=user)


def submit(submissions: Submissions, entry: SubmittedArray, number: str) -> None:
    submissions.plan(entry)
    submissions.submitted(entry.name, number)


def test_entries_are_read_back_and_the_newest_of_a_task_counts(tmp_path: Path) -> None:
    submissions = Submissions(tmp_path)
    with submissions.locked():
        for name, number in (("first", "10"), ("second", "11")):
            submit(submissions, array(name, attempt=int(number) - 9), number)
        submit(submissions, array("single", attempt=3, cells=("b",)), "12")
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


def test_an_entry_of_another_user_is_not_dropped_because_slurm_does_not_show_it(tmp_path: Path, stubs: Stubs) -> None:
    Submissions(tmp_path).plan(array("theirs", user="alice"))
    stubs.answer("squeue", "ARRAY_JOB_ID|NAME\n")
    stubs.answer("sacct")
    submissions = Submissions(tmp_path)
    with submissions.locked():
        pass
    assert [entry.name for entry in Submissions(tmp_path).entries] == ["theirs"]


def test_an_entry_is_kept_while_squeue_does_not_say_whether_slurm_took_it(tmp_path: Path, stubs: Stubs) -> None:
    Submissions(tmp_path).plan(array("accepted"))
    for printed, messages in (("The cluster is down\n", ""), ("", "slurm_load_jobs error: Socket timed out\n")):
        stubs.answer("squeue", printed, messages)
        submissions = Submissions(tmp_path)
        with pytest.raises(SlurmError), submissions.locked():
            pass
        assert [entry.name for entry in Submissions(tmp_path).entries] == ["accepted"]


def test_a_job_that_slurm_took_after_it_was_given_up_is_adopted_and_an_unknown_one_returned(
    tmp_path: Path, stubs: Stubs
) -> None:
    stubs.answer("squeue", "ARRAY_JOB_ID|NAME\n")
    stubs.answer("sacct")
    submissions = Submissions(tmp_path)
    submissions.plan(array("late"))
    with submissions.locked():
        assert submissions.entries == []
    jobs = tmp_path / "jobs"
    elsewhere = tmp_path / "other" / "jobs"
    lines = [
        f"8|late|{jobs}/late/submission.sh",
        f"9|lost|{jobs}/lost/submission.sh",
        f"7|x|{elsewhere}/x/submission.sh",
    ]
    stubs.answer("squeue", "\n".join(["ARRAY_JOB_ID|NAME|COMMAND", *lines, "6|wrap|(null)"]) + "\n")
    with submissions.locked():
        assert submissions.adopt() == {"9": "lost"}
        assert [(entry.name, entry.array) for entry in submissions.entries] == [("late", "8")]


def test_how_jobs_ended_and_which_cells_are_cancelled_is_kept(tmp_path: Path) -> None:
    submissions = Submissions(tmp_path)
    submissions.record_ended({"1": JobState("CANCELLED", "by\x1b[2J hand"), "2": JobState("RUNNING")})
    submissions.record_ended({"1": JobState("UNKNOWN")})
    submissions.cancel(["a", "b"])
    submissions.resume(["b", "c"])
    stored = Submissions(tmp_path)
    assert stored.ended == {"1": JobState("CANCELLED", "by?[2J hand")}
    assert stored.cancelled.keys() == {"a"}
    stored.record_ended({"1": JobState("PENDING"), "3": JobState("FAILED")})
    assert stored.ended == {"3": JobState("FAILED")}, "somebody has requeued the first"
    stored.record_ended({"1": JobState("OUT_OF_MEMORY")})
    assert Submissions(tmp_path).ended.keys() == {"1", "3"}
    size = stored.path.stat().st_size
    stored.resume(["b"])
    stored.cancel([])
    stored.record_ended({"1": JobState("OUT_OF_MEMORY"), "4": JobState("RUNNING")})
    assert stored.path.stat().st_size == size, "what changes nothing is not written"


@pytest.mark.parametrize(
    "damage", [b'{"line": "accepted", "na', b"[" * 100_000, b"\xff\xfe", b"\0" * 4096, b"7", b'{"line": "x"}']
)
@pytest.mark.parametrize("place", ["first", "between", "torn at the end"])
def test_a_damaged_line_costs_itself_and_the_file_is_repaired(
    tmp_path: Path, damage: bytes, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    submissions = Submissions(tmp_path)
    submit(submissions, array("first"), "10")
    content = submissions.path.read_bytes()
    first, second = content.splitlines(keepends=True)
    submissions.path.write_bytes(
        {"first": damage + b"\n" + content, "between": first + damage + b"\n" + second}.get(place, content + damage)
    )
    read = Submissions(tmp_path)
    assert read.entries == submissions.entries
    assert len(read.damage) == (place != "torn at the end"), "it may just be being written"
    with read.locked():
        assert read.entries == submissions.entries
        submit(read, array("second"), "11")
    number = {"first": 1, "between": 2}.get(place, 3)
    assert f"note: {read.path}:{number}: not a line of a submissions file (" in capsys.readouterr().err
    stored = Submissions(tmp_path)
    assert [entry.array for entry in stored.entries] == ["10", "11"]
    assert stored.damage == []
    (kept,) = tmp_path.glob("jobs/book.damaged-*.jsonl")
    assert damage in kept.read_bytes()


def test_a_last_line_without_an_end_hides_no_damage(tmp_path: Path) -> None:
    submissions = Submissions(tmp_path)
    submit(submissions, array("first"), "10")
    submissions.path.write_bytes(b"x\n" + submissions.path.read_bytes().rstrip(b"\n"))
    assert [entry.array for entry in Submissions(tmp_path).entries] == ["10"]
    assert len(Submissions(tmp_path).damage) == 1


ENTRY = asdict(replace(array("first"), array=None))
ODD_ENTRIES: dict[str, tuple[object, str]] = {
    "an option for a folder": ({**ENTRY, "name": "--user=root"}, "planned.array.name"),
    "a path as a name": ({**ENTRY, "name": "../../x"}, "planned.array.name"),
    "a job and a command": ({**ENTRY, "array": "7;id"}, "planned.array.array"),
    "fewer attempts than cells": ({**ENTRY, "attempts": [1]}, "2 cells and 1 attempts"),
    "attempts as text": ({**ENTRY, "attempts": ["1", "1"]}, "planned.array.attempts.0"),
    "a huge attempt": ({**ENTRY, "attempts": [10**30, 1]}, "planned.array.attempts.0"),
    "a truth value": ({**ENTRY, "throttle": True}, "planned.array.throttle"),
    "cells as text": ({**ENTRY, "cells": "ab"}, "planned.array.cells"),
    "a cell with a separator": ({**ENTRY, "cells": ["../a", "b"]}, "planned.array.cells.0"),
    "a path with a NUL": ({**ENTRY, "folder": "/a\0b"}, "planned.array.folder"),
    "another stage": ({**ENTRY, "stage": "sleep"}, "planned.array.stage"),
    "an unknown field": ({**ENTRY, "owner": "root"}, "planned.array.owner"),
    "a list": ([], "planned.array"),
    "null": (None, "planned.array"),
}


@pytest.mark.parametrize(("entry", "why"), ODD_ENTRIES.values(), ids=ODD_ENTRIES)
def test_an_odd_entry_is_damage_that_is_named_by_field(tmp_path: Path, entry: object, why: str) -> None:
    path = tmp_path / "jobs" / "book.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"line": "planned", "array": entry}) + "\n")
    submissions = Submissions(tmp_path)
    assert submissions.entries == []
    (text,) = submissions.damage
    assert text.startswith(f"{path}:1: not a line of a submissions file (")
    assert why in text


def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "jobs" / "book.jsonl"
    path.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"book\.jsonl is not a regular file"):
        Submissions(tmp_path)


def write_earlier(output: Path, content: bytes | None = None) -> Path:
    """A `book.json` as earlier versions wrote it: no `user`, one submission that was interrupted."""
    path = output / "jobs" / "book.json"
    path.parent.mkdir(parents=True)
    entries = [asdict(replace(array("first"), array="10")), asdict(array("interrupted"))]
    for entry in entries:
        del entry["user"]
    path.write_bytes(content if content is not None else json.dumps({"version": 1, "entries": entries}).encode())
    return path


def test_a_file_of_an_earlier_version_is_read_and_converted_once(tmp_path: Path, stubs: Stubs) -> None:
    path = write_earlier(tmp_path)
    before = path.read_bytes()
    submissions = Submissions(tmp_path)
    assert [(entry.name, entry.array) for entry in submissions.entries] == [("first", "10"), ("interrupted", None)]
    assert path.read_bytes() == before, "reading changes nothing"
    stubs.answer("squeue", "ARRAY_JOB_ID|NAME\n11|interrupted\n")
    with submissions.locked():
        submissions.set_throttle("first", 2)
    assert json.loads(path.read_text()) == {"version": 2, "moved_to": "book.jsonl"}, "earlier code refuses it"
    stored = Submissions(tmp_path)
    assert [(entry.array, entry.throttle) for entry in stored.entries] == [("10", 2), ("11", 4)]
    lines = stored.path.read_bytes()
    with stored.locked():
        pass
    assert stored.path.read_bytes() == lines


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b'{"version": 3}', b'{"version": 1, "entries": [{"na']
)
def test_a_damaged_file_of_an_earlier_version_is_put_aside(tmp_path: Path, content: bytes) -> None:
    path = write_earlier(tmp_path, content)
    submissions = Submissions(tmp_path)
    assert submissions.entries == []
    assert submissions.damage[0].startswith(f"{path}:1: not a line of a submissions file (")
    with submissions.locked():
        submit(submissions, array("new"), "12")
    assert (path.parent / "book.damaged.json").read_bytes() == content
    assert [entry.array for entry in Submissions(tmp_path).entries] == ["12"]
    assert Submissions(tmp_path).damage == []


def test_what_was_read_before_is_not_parsed_again(tmp_path: Path) -> None:
    submissions, path = Submissions(tmp_path), tmp_path / "jobs" / "book.jsonl"
    submit(submissions, array("first"), "10")
    before = lines.read(path)
    submit(submissions, array("second"), "11")
    again = lines.read(path, before)
    assert again == lines.read(path)
    assert all(one is other for one, other in zip(again.lines, before.lines, strict=False))
    path.write_bytes(path.read_bytes().replace(b"first", b"other"))
    assert lines.read(path, before) == lines.read(path)


def test_two_lines_in_one_are_damage(tmp_path: Path) -> None:
    submissions, path = Submissions(tmp_path), tmp_path / "jobs" / "book.jsonl"
    submit(submissions, array("first"), "10")
    path.write_bytes(path.read_bytes()[:-1].replace(b"\n", b",") + b"\n")  # an array of both would be valid
    assert [number for number, _ in lines.read(path).damaged] == [1]
