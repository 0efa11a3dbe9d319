"""Covers `locks`: a lock is held by one process, whoever waits is told by whom, and how to end that."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.storage import locks
from harness.storage.locks import HeldError, file_owner, locked, refuse_if_held, user_name

HOLDS = """
import sys, time
from pathlib import Path
from harness.storage.locks import locked
with locked(Path(sys.argv[1]), "this test"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def holder(path: Path, seconds: float, **variables: str) -> Iterator[int]:
    """A process that holds the lock so long."""
    command = [sys.executable, "-c", HOLDS, str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.kill()


def test_whoever_waits_for_a_stopped_process_is_told_who_it_is_and_how_to_end_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SILENT_SECONDS", 0.1)
    path = tmp_path / "book.lock"
    with holder(path, 0.3) as pid:
        os.kill(pid, signal.SIGSTOP)
        waiting = subprocess.Popen([sys.executable, "-c", HOLDS, str(path), "0"], stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        began = time.monotonic()
        said = waiting.stderr.readline()
        assert 1.5 < time.monotonic() - began < 10, "after two seconds"
        who = (
            f"note: waiting: this test holds {path}: process {pid} of {user_name()} on {socket.gethostname()}, since 20"
        )
        assert said.startswith(who)
        assert f"it is stopped: `kill -CONT {pid}` lets it go on, `kill -KILL {pid}` ends it" in said
        os.kill(pid, signal.SIGCONT)
        assert waiting.wait(30) == 0
    assert capsys.readouterr().err == ""


def test_a_short_wait_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holder(tmp_path / "lock", 0.2), locked(tmp_path / "lock", "this test"):
        pass
    assert capsys.readouterr().err == ""


def test_who_does_not_want_to_wait_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    refuse_if_held(path, "another sweep")
    with locked(path, "another sweep", wait=False):
        for refused in (lambda: refuse_if_held(path, "another sweep"), lambda: enter(path)):
            with pytest.raises(HeldError, match=rf"another sweep holds {path}: process {os.getpid()} of "):
                refused()
    refuse_if_held(path, "another sweep")
    enter(path)
    assert path.read_bytes() == b"", "nobody holds it"


def enter(path: Path) -> None:
    with locked(path, "another sweep", wait=False):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with holder(tmp_path / "lock", 60) as pid:
        with pytest.raises(HeldError):
            enter(tmp_path / "lock")
        os.kill(pid, signal.SIGKILL)
    enter(tmp_path / "lock")
    assert (tmp_path / "lock").read_bytes() == b"", "its name is gone, and nobody holds it"


def test_a_job_of_slurm_is_ended_by_scancel(tmp_path: Path) -> None:
    with holder(tmp_path / "lock", 60, SLURM_JOB_ID="17"), pytest.raises(HeldError, match="`scancel 17` ends it"):
        enter(tmp_path / "lock")


ODD = [
    b"",
    b"[" * 5000,
    b"\xff",
    b"7",
    b'{"host": 1}',
    b'{"host": "a\\u001b[2J", "pid": "1", "user": "", "since": "", "job": ""}',
]


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_a_holder_that_does_not_say_who_it_is_holds_the_lock_all_the_same(tmp_path: Path, content: bytes) -> None:
    with locked(tmp_path / "lock", "this test"):
        (tmp_path / "lock").write_bytes(content)
        with pytest.raises(HeldError, match="a process that does not say who it is"):
            enter(tmp_path / "lock")


def test_a_process_on_another_host_is_ended_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(tmp_path / "lock", 60) as pid:
        here = socket.gethostname()
        monkeypatch.setattr(locks.socket, "gethostname", lambda: "login2")
        with pytest.raises(HeldError, match=f"on {here}, `kill -KILL {pid}` ends it"):
            enter(tmp_path / "lock")


def test_a_lock_that_another_user_made_is_refused_with_that_users_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without write access to another one's output; the superuser has access to everything."""
    path = tmp_path / "lock"
    path.touch()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr(locks, "file_owner", lambda path: "alice")
    with pytest.raises(PermissionError, match=rf"{path} belongs to alice, and {user_name()} may not write it"):
        enter(path)


def test_a_file_belongs_to_who_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert file_owner(tmp_path / "file") == user_name()
    assert file_owner(tmp_path / "none") == ""
