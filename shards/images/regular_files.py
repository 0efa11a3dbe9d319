"""Local files: only regular ones are opened, never more is read than a limit, and their state tells versions apart.

A FIFO or a device may block for ever or never end, so its name must not be opened as an image or a table.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

FileState = tuple[int, int, int, int]
"""Size, time of change of the content (ns), time of change of the inode (ns), and number of the inode.

The third cannot be set back by hand, and the fourth changes when a file is replaced or a link points elsewhere.
"""

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a folder",
}


class FileTooLargeError(OSError):
    """A file has, or delivers, more bytes than may be read of it."""


class NotRegularError(OSError):
    """A path leads to something else than a regular file, or to itself."""


def descriptor_of(path: Path | str) -> int:
    """A descriptor of a regular file, or of a link to one, which the caller closes.

    Raises FileNotFoundError, NotRegularError, or OSError for a file that may not be read.
    """
    try:
        # Before it is opened, which may already act on a device; by its text, which is faster than by a Path.
        _check(path, os.stat(path))  # noqa: PTH116
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise NotRegularError(f"{path} is a link to itself, not a regular file") from None
    try:
        _check(path, os.fstat(descriptor))
    except NotRegularError:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file, or a link to one, for reading; errors as in `descriptor_of`."""
    return os.fdopen(descriptor_of(path), "rb")


def read_regular(path: Path, limit: int) -> bytes:
    """All bytes of a regular file; OSError if it is another kind, has more than `limit` bytes, or grows meanwhile."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise FileTooLargeError(f"it has {size} bytes; {limit} are the limit")
        data = file.read(size + 1)
    if data is None or len(data) > size:  # None: a file of the system that has nothing to read now
        raise OSError("its size does not say how much there is to read")
    return data


def state_of(path: Path) -> FileState | None:
    """The state of a file, by which another version of it can be told; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _check(path: Path | str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise NotRegularError(f"{path} is {kind}, not a regular file")
