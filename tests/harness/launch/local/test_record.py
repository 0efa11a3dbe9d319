"""Covers `record`, `cancel` and `logs` of local sweeps: what they say of cells, and how a sweep hears of a cancel.

test_sweep_at_home.py cancels cells of a real one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.launch.local import cancel
from harness.launch.local.cancel import Cancelled, wait_for_sweep
from harness.launch.local.logs import read_local_log
from harness.launch.local.record import Record, last_changes, record_file
from harness.launch.owner import SWEEP_LOCK
from harness.launch.slurm.book.submissions import Submissions
from harness.storage.locks import locked


def test_the_last_change_of_each_cell_counts(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.add("queued", ["a", "b", "c"])
    record.add("running", ["a"], Path("log"))
    record.add("failed", ["a"], Path("log"), "ValueError: no images", "Traceback")
    record.add("running", ["b"], Path("log"))
    found = last_changes(tmp_path)
    assert {cell: change.phase for cell, change in found.items()} == {"a": "failed", "b": "running", "c": "queued"}
    assert (found["a"].reason, found["a"].log) == ("ValueError: no images", "log")
    assert set(last_changes(tmp_path, {"b"})) == {"b"}


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"phase": "queued"}', '{"phase": "lost", "cells": ["a"], "time": 1}', '{"cells": 3}']
)
def test_a_damaged_line_costs_only_itself(tmp_path: Path, line: str) -> None:
    record = Record(tmp_path)
    record.add("queued", ["a"])
    with record_file(tmp_path).open("a") as file:
        file.write(line)
    record.add("running", ["b"])
    assert {cell: change.phase for cell, change in last_changes(tmp_path).items()} == {"a": "queued", "b": "running"}


def test_without_a_record_there_are_no_changes(tmp_path: Path) -> None:
    assert last_changes(tmp_path) == {}
    assert read_local_log(tmp_path, "a") is None


def test_the_log_of_a_failed_cell_ends_with_its_traceback(tmp_path: Path) -> None:
    log = tmp_path / "process.err"
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    Record(tmp_path).add("failed", ["a"], log, "ValueError: no images", "Traceback\n  raise\nValueError: no images\n")
    lines = (read_local_log(tmp_path, "a") or "").splitlines()
    assert lines[:2] == [f"--- {log} (last 40 lines)", "line 60"]
    assert lines[41].startswith("a: failed on this machine at ")
    assert lines[41].endswith(": ValueError: no images")
    assert lines[42:] == ["Traceback", "  raise", "ValueError: no images"]


def test_a_sweep_sees_what_is_cancelled_and_resumed_meanwhile(tmp_path: Path) -> None:
    seen, submissions = Cancelled(tmp_path), Submissions(tmp_path)
    assert seen.cells() == frozenset()
    with submissions.locked():
        submissions.cancel(["a", "b"])
    assert seen.cells() == {"a", "b"}
    with submissions.locked():
        submissions.resume(["a"])
    assert seen.cells() == {"b"}


def test_nobody_waits_for_a_sweep_that_has_ended(tmp_path: Path) -> None:
    Record(tmp_path).add("running", ["a"])
    assert wait_for_sweep(tmp_path, ["a"]) == 0


def test_a_sweep_that_does_not_end_its_cells_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel, "PATIENCE", 0.3)
    Record(tmp_path).add("running", ["a"])
    with locked(tmp_path / SWEEP_LOCK, "a test"):
        assert wait_for_sweep(tmp_path, ["b"]) == 0
        with pytest.raises(RuntimeError, match=r"within 0.3 s: process \d+ of .*; `kill -KILL \d+` ends"):
            wait_for_sweep(tmp_path, ["a"])
