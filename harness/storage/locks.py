"""Locks between processes (`flock`) whose file says who holds them, so that nobody waits in silence.

The system releases a lock when its holder ends, however it ends. A process that is stopped (Ctrl-Z) keeps it.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import IO

from harness.storage.json_files import parse_json

SILENT_SECONDS = 2.0  # what usually waits for another command has its turn by then
POLL_SECONDS = 0.05
MOST_BYTES = 4096


class HeldError(RuntimeError):
    """Another process holds the lock; the text says which, and how to end it."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes:
        pid: as text.
        since: local time, ISO 8601.
        job: SLURM's id of the job that it is part of; empty outside SLURM.
    """

    host: str
    pid: str
    user: str
    since: str
    job: str

    def __str__(self) -> str:
        job = f" (SLURM job {self.job})" if self.job else ""
        return f"process {self.pid} of {self.user} on {self.host}{job}, since {self.since}"

    @property
    def remedy(self) -> str:
        """How to end the holder, or to let it go on if it is known to be stopped."""
        if self.job:
            return f"`scancel {self.job}` ends it"
        if self.host != socket.gethostname():
            return f"on {self.host}, `kill -KILL {self.pid}` ends it"
        ends = f"`kill -KILL {self.pid}` ends it"
        return f"it is stopped: `kill -CONT {self.pid}` lets it go on, {ends}" if _is_stopped(self.pid) else ends


@contextmanager
def locked(path: Path, other: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock of this file, which is created. After `SILENT_SECONDS` of waiting, say on stderr who holds it.

    Args:
        other: what else may hold it, as the beginning of a message.

    Raises:
        HeldError: `wait` is not set, and another process holds it.
        PermissionError: the file is another user's, who is named.
    """
    with _opened(path) as file:
        if not _acquired(file, SILENT_SECONDS if wait else 0.0):
            if not wait:
                raise HeldError(_held(path, other))
            print(f"note: waiting: {_held(path, other)}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        _write_holder(file)
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)


def refuse_if_held(path: Path, other: str) -> None:
    """Raise HeldError if another process holds the lock of this file, which need not exist."""
    with suppress(FileNotFoundError), path.open("r", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldError(_held(path, other)) from None


def holder(path: Path) -> Holder | None:
    """Who holds the lock of this file now; None if nobody does."""
    try:
        refuse_if_held(path, "a process")
    except HeldError:
        return _holder(path) or Holder("an unknown host", "?", "an unknown user", "an unknown time", "")
    return None


def user_name() -> str:
    """The name of the user who runs this process; their number where it has no name (in a container)."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def file_owner(path: Path) -> str:
    """The user who wrote a file, by name or number; empty if there is none."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)
    except OSError:
        return ""


def _opened(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return path.open("a+", encoding="utf-8")
    except PermissionError as error:
        owner = file_owner(path) or file_owner(path.parent)
        raise PermissionError(f"{path} belongs to {owner}, and {user_name()} may not write it") from error


def _acquired(file: IO[str], patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(POLL_SECONDS)


def _held(path: Path, other: str) -> str:
    holder = _holder(path)
    who = f"{holder}; {holder.remedy}" if holder else "a process that does not say who it is"
    return f"{other} holds {path}: {who}"


def _write_holder(file: IO[str]) -> None:
    """Say who holds the lock. That the disk is full is no reason not to hold it."""
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    holder = Holder(socket.gethostname(), str(os.getpid()), user_name(), now, os.environ.get("SLURM_JOB_ID", ""))
    with suppress(OSError):
        file.truncate(0)
        file.write(json.dumps(asdict(holder)))
        file.flush()


def _holder(path: Path) -> Holder | None:
    """Who holds the lock, as far as the file says: nothing before the holder has written it."""
    try:
        with path.open("rb") as file:
            value = parse_json(file.read(MOST_BYTES))
        texts = {field.name: value[field.name] for field in fields(Holder)}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    shown = all(isinstance(text, str) and (text.isprintable() or not text) for text in texts.values())
    return Holder(**texts) if shown else None


def _is_stopped(pid: str) -> bool:
    """Whether a process of this machine is stopped by a signal (Linux; elsewhere it is not known)."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, ValueError, IndexError):
        return False
