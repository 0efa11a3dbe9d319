"""What was read of files, kept for as long as the files are the same.

A file is the same if its size, inode and times are. That cannot be told of one that was written moments ago: it may be
written again within the same tick of the file system's clock, in as many bytes. So nothing is kept of a file that was
last written less than `SETTLED_NS` before it was read, and it is read again the next time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system in use has ticks of 2 s


class Identity(NamedTuple):
    """What tells a file from what it was before."""

    written: int  # last change of its content, in ns since the epoch, by the clock of the file system
    changed: int  # last change of its content, name or owner, likewise
    size: int
    inode: int

    def is_settled(self, now: int) -> bool:
        """Whether the file, read at `now` (ns since the epoch), has another identity when it is written again."""
        return self.written + SETTLED_NS < now


def identity(path: str) -> Identity:
    """The identity of a file.

    Raises:
        OSError: there is none.
    """
    status = os.stat(path)  # noqa: PTH116  (a Path takes five times as long)
    return Identity(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


class Remembered(Generic[T]):
    """Values read from files, by path."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[Identity, T]] = {}
        self.new: set[str] = set()  # paths whose entries were added here

    def read(self, path: str, read: Callable[[], T]) -> T:
        """What `read` returns for a file, which is called only if the file is not the one that was read before.

        Raises:
            OSError: there is no such file.
        """
        found = identity(path)  # before it is read: a change in between shows the next time
        entry = self.entries.get(path)
        if entry is not None and entry[0] == found:
            return entry[1]
        now, value = time.time_ns(), read()
        if found.is_settled(now):
            self.entries[path] = found, value
            self.new.add(path)
        else:
            self.entries.pop(path, None)
        return value
