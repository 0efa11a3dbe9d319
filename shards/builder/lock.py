"""The lock of an output folder: one build at a time writes into it.

It is a lock of the system (`flock`) on `.build/lock`, so it ends with the processes that hold it, however they end. The
workers of a build hold it too: a build that was killed may not be succeeded before the last of them has stopped
writing. The content of the file only says who holds the lock.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from shards.errors import BuildError
from shards.format.atomic import is_alive

LOCK = "lock"
PATIENCE = 20.0
"""Seconds that the workers of a build that was killed may take to end."""

HANDOVER = 0.5
"""Seconds before a build is refused: the other one may be about to write who it is, or about to end."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def has_died(self) -> bool:
        """Whether it was a process of this machine that has ended: then only its workers hold the lock."""
        return self.host == platform.node() and not is_alive(str(self.pid))


@dataclass(frozen=True)
class Lock:
    """A held lock. A process that is started with it holds it as well, until it ends."""

    descriptor: int

    def __reduce__(self) -> tuple[Callable[[Any], Lock], tuple[object]]:
        return _of_parent, (reduction.DupFd(self.descriptor),)


@contextmanager
def locked(records: Path) -> Iterator[Lock]:
    """Hold the lock of an output folder, a file in its folder of records; both are created, and removed if unused.

    Raises BuildError, which names the holder, if another build holds the lock. Where the file system has no locks, a
    warning is logged instead.
    """
    created = not records.parent.is_dir()
    descriptor = _acquire(records / LOCK)
    try:
        _write_holder(descriptor)
        yield Lock(descriptor)
    finally:
        os.ftruncate(descriptor, 0)
        with suppress(OSError):
            if [path.name for path in records.iterdir()] == [LOCK]:
                _remove_empty(records, created)
        os.close(descriptor)


def _remove_empty(records: Path, created: bool) -> None:
    """Remove the lock file and its folder, and the output if this build made it; a waiting process looks again."""
    (records / LOCK).unlink()
    records.rmdir()
    if created:
        records.parent.rmdir()


def _acquire(path: Path) -> int:
    """A descriptor that holds the lock on the file that has this path now."""
    begin = time.monotonic()
    while True:
        descriptor = _open(path)
        if not _try_lock(descriptor, path):
            holder = _holder(descriptor)
            os.close(descriptor)
            patience = PATIENCE if holder is not None and holder.has_died else HANDOVER
            if time.monotonic() - begin > patience:
                who = "" if holder is None else f": {holder}"
                raise BuildError(f"{path.parents[1]}: another build works on this folder{who}")
            time.sleep(0.05)
        elif _is_at(descriptor, path):
            return descriptor
        else:
            os.close(descriptor)


def _open(path: Path) -> int:
    """A descriptor of the lock file; BuildError for a link or anything but a regular file, which is not written to."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BuildError(f"{path} is not a regular file: delete it, or build into another folder")
    while True:
        with suppress(FileExistsError):
            path.parent.mkdir(parents=True)
        with suppress(FileNotFoundError):  # another build that wrote nothing may have removed its folder again
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s cannot be locked (%s): make sure that only one build writes into this folder", path, error)
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    holder = Holder(platform.node(), os.getpid(), datetime.now().astimezone().isoformat(timespec="seconds"))
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)


def _holder(descriptor: int) -> Holder | None:
    """Who holds the lock, as far as the file says; None before that is written."""
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _of_parent(duplicate: Any) -> Lock:  # noqa: ANN401  (multiprocessing gives its class no public name)
    return Lock(duplicate.detach())
