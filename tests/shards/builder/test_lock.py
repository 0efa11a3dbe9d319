"""The lock of an output folder, held by real processes: one at a time, until the last of them ends."""

import errno
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards.builder.lock import locked
from shards.errors import BuildError

HOLD = """
import sys, time
from pathlib import Path
from shards.builder.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
WITH_WORKER = """
import multiprocessing, sys, time
from pathlib import Path
from shards.builder.lock import locked
from worker import work
if __name__ == "__main__":
    with locked(Path(sys.argv[1])) as lock:
        process = multiprocessing.get_context("spawn").Process(target=work, args=(lock, float(sys.argv[2])))
        process.start()
        time.sleep(60)
"""
WORK = """
import time
def work(lock, seconds):
    print("held", flush=True)
    time.sleep(seconds)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_at_once_and_told_who_holds_it(tmp_path):
    holder = start(HOLD, tmp_path / "out" / ".build", 60)
    begin = time.monotonic()
    who = f"another build works on this folder: process {holder.pid} on {platform.node()}, since 20"
    with pytest.raises(BuildError, match=re.escape(f"{tmp_path / 'out'}: {who}")), locked(tmp_path / "out" / ".build"):
        pass
    assert time.monotonic() - begin < 1
    holder.kill()
    holder.wait()
    with locked(tmp_path / "out" / ".build"):
        assert (tmp_path / "out" / ".build" / "lock").is_file()


@pytest.mark.slow
def test_a_killed_holder_is_succeeded_in_every_round(tmp_path):
    for _ in range(10):
        holder = start(HOLD, tmp_path / ".build", 60)
        holder.kill()
        with locked(tmp_path / ".build"):  # also before the holder has been waited for
            assert json.loads((tmp_path / ".build" / "lock").read_bytes())["pid"] == os.getpid()
        holder.wait()


@pytest.mark.slow
def test_the_lock_lasts_until_the_last_worker_of_a_killed_build_has_ended(tmp_path):
    (tmp_path / "worker.py").write_text(WORK)
    (tmp_path / "main.py").write_text(WITH_WORKER)
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path / "out"), "3"]
    build = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert build.stdout is not None
    assert build.stdout.readline() == "held\n"
    begin = time.monotonic()
    build.kill()
    build.wait()
    with locked(tmp_path / "out"):
        assert 2 < time.monotonic() - begin < 10


@pytest.mark.slow
def test_only_one_of_many_holds_it_at_a_time(tmp_path):
    """Eight processes take the lock again and again, and each finds itself alone; folders come and go meanwhile."""
    code = """
import os, sys, time
from pathlib import Path
from shards.builder.lock import locked
from shards.errors import BuildError
folder, alone = Path(sys.argv[1]), Path(sys.argv[2])
until, held = time.monotonic() + 4, 0
while time.monotonic() < until:
    try:
        with locked(folder / "out" / ".build"):
            os.close(os.open(alone, os.O_CREAT | os.O_EXCL))
            time.sleep(0.001)
            alone.unlink()
            held += 1
    except BuildError:
        pass
print(held)
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "alone")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    counts = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert sum(counts) > 100


def test_an_unused_lock_leaves_nothing_behind(tmp_path):
    with locked(tmp_path / "out" / ".build"):
        pass
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine" / ".build"):
        pass
    assert not list((tmp_path / "mine").iterdir())


def test_a_file_system_without_locks_is_named_in_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(*_) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / ".build"):
        pass
    assert re.search("lock cannot be locked .*Function not implemented.* only one build", caplog.text)


@pytest.mark.parametrize("kind", ["link", "dangling link", "FIFO", "folder"])
def test_a_lock_that_is_no_regular_file_is_refused_and_left_as_it_is(tmp_path, kind):
    lock, other = tmp_path / "lock", tmp_path / "other"
    if kind == "FIFO":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(other)
    if kind == "link":
        other.write_text("mine")
    with pytest.raises(BuildError, match=f"{re.escape(str(lock))} is not a regular file: delete it"), locked(tmp_path):
        pass
    assert other.read_text() == "mine" if kind == "link" else not other.exists()
    assert os.path.lexists(lock)


def test_a_damaged_lock_file_is_no_obstacle(tmp_path: Path):
    (tmp_path / "lock").write_bytes(b"\xff{not JSON")
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_bytes())["pid"] == os.getpid()
