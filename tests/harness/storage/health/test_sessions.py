"""Covers `sessions`: what the hours of a killed, stopped and resumed training were spent on, by hand."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.storage.health.sessions import (
    HOUR,
    SESSIONS,
    Save,
    Session,
    SessionLog,
    Spent,
    failure_rate,
    last_sign,
    read_sessions,
    read_spent,
    spent,
)

KILLED = Session(1000.0, 0, 4, 1, 200.0, 10.0, (Save(50, 60.0, 1.0), Save(100, 110.0, 2.0)))
RESUMED = Session(1300.0, 100, 4, 1, 105.0, 5.0, (), "finished")


def hours(useful: float, starting: float, saving: float, lost: float, failures: int, ranks: int = 4) -> Spent:
    values = (useful + starting + saving + lost, useful, starting, saving, lost)
    return Spent(*(value * ranks / HOUR for value in values), failures)


def about(expected: Spent) -> Spent:
    return Spent(**{name: pytest.approx(value) for name, value in asdict(expected).items()})


def test_what_a_kill_loses_is_the_time_since_the_last_save() -> None:
    assert spent([KILLED, RESUMED]) == about(hours(97 + 100, 15, 3, 90, 1))


def test_a_session_whose_saves_were_damaged_counts_up_to_the_one_that_was_loaded() -> None:
    resumed = Session(1300.0, 50, 4, 1, 155.0, 5.0, (), "finished")
    assert spent([KILLED, resumed]) == about(hours(49 + 150, 15, 1, 140, 1))


def test_a_run_that_started_again_from_step_0_lost_all_of_it() -> None:
    again = Session(1300.0, 0, 4, 1, 205.0, 5.0, (), "finished")
    assert spent([KILLED, again]) == about(hours(200, 15, 0, 190, 1))


def test_a_stop_loses_nothing_and_is_no_failure() -> None:
    stopped = Session(1000.0, 0, 4, 1, 110.0, 10.0, (Save(100, 110.0, 2.0),), "stopped")
    assert spent([stopped, RESUMED]) == about(hours(98 + 100, 15, 2, 0, 0))
    assert failure_rate([[stopped, RESUMED]]).failures == 0
    assert failure_rate([[KILLED, RESUMED], [stopped]]).failures == 1


def test_a_running_session_counts_what_it_has_not_saved_and_a_dead_one_does_not() -> None:
    assert spent([KILLED], is_running=True) == about(hours(187, 10, 3, 0, 0))
    assert spent([KILLED]) == about(hours(97, 10, 3, 90, 1))
    starting = Session(1000.0, 0, 4, 1, 30.0)
    assert spent([starting], is_running=True) == about(hours(0, 30, 0, 0, 0))


def test_sessions_are_read_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("harness.storage.health.sessions.time.time", lambda: clock[0])
    log = SessionLog(tmp_path, Session(1000.0, 0, 4, 1), 0.0)
    for seconds, write in (
        (10, log.ready), (60, lambda: log.saved(50, 1.0)), (110, lambda: log.saved(100, 2.0)),
    ):  # fmt: skip
        clock[0] = 1000.0 + seconds
        write()
    (tmp_path / "train.jsonl").touch()
    os.utime(tmp_path / "train.jsonl", (1200, 1200))
    os.utime(tmp_path / SESSIONS, (1110, 1110))
    assert last_sign(tmp_path, ["train.jsonl"]) == 1200
    assert read_sessions(tmp_path, ["train.jsonl"]) == [KILLED]
    clock[0] = 1305.0
    log = SessionLog(tmp_path, Session(1300.0, 100, 4, 1), 1200.0)
    log.ready()
    clock[0] = 1405.0
    log.ended("finished")
    assert read_sessions(tmp_path) == [KILLED, RESUMED]


def test_a_torn_line_costs_one_line_and_a_folder_without_room_nothing(tmp_path: Path) -> None:
    (tmp_path / SESSIONS).write_bytes(b'{"event": "start", "time": 5, "st')
    SessionLog(tmp_path, Session(1000.0, 7, 2, 1), 0.0)
    assert [session.step for session in read_sessions(tmp_path)] == [7]
    SessionLog(tmp_path / "gone", Session(1000.0, 7, 2, 1), 0.0).ready()
    assert read_sessions(tmp_path / "gone") == []


@pytest.mark.parametrize(
    "line",
    [b"[]", b"\xff", b"{}", b'{"event": "start", "time": 1, "step": -1, "ranks": 1, "nodes": 1}', b"[" * 100_000,
     b'{"event": "save", "time": 1100, "step": "x", "blocked": 1}', b'{"event": "save", "time": 1e400}'],
    ids=["list", "bytes", "empty", "negative", "deep", "text", "infinite"],
)  # fmt: skip
def test_lines_that_no_session_writes_are_left_out(tmp_path: Path, line: bytes) -> None:
    start = json.dumps({"event": "start", "time": 1000.0, "step": 0, "ranks": 1, "nodes": 1}).encode()
    (tmp_path / SESSIONS).write_bytes(b"\n".join([line, start, line, b'{"event": "finished", "time": 1200.0}\n']))
    (session,) = read_sessions(tmp_path)
    assert (session.seconds, session.end, session.saves) == (200.0, "finished", ())


def test_the_ledgers_values_are_read_back_and_those_of_early_versions_are_none() -> None:
    values = {"hours": 1.0, "useful": 0.5, "starting": 0.1, "saving": 0.1, "lost": 0.3, "failures": 2}
    found = read_spent({"spent": values})
    assert found is not None
    assert (found.goodput, found.failures) == (0.5, 2)
    assert read_spent({}) is None
    assert read_spent({"spent": {**values, "lost": "much"}}) is None
