"""Append to files: lines on lines of their own, and pieces whole or not at all, also on a full disk."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def append_line(path: Path, line: bytes, *, flush: bool = False) -> None:
    """Append a line, given without its end, on a line of its own, also if the last one was torn.

    Args:
        path: of the file, which is made if there is none.
        line: to append.
        flush: whether to wait until it is on disk.
    """
    with path.open("ab+") as file:
        torn = b""
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        file.write(torn + line + b"\n")
        if flush:
            file.flush()
            os.fsync(file.fileno())


class AppendedFile:
    """Keeps in memory what a full disk does not take, and appends it with the next piece."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = path, path.open("ab", buffering=0)
        self._kept = bytearray()
        self._is_full = False

    def append(self, piece: bytes) -> None:
        """Append a piece after those that are kept, or keep it, too, and say why when that begins."""
        self._kept += piece
        before = os.fstat(self._file.fileno()).st_size
        written = 0
        try:
            while written < len(self._kept):
                written += self._file.write(memoryview(self._kept)[written:])
        except OSError as error:
            os.ftruncate(self._file.fileno(), before)
            if not self._is_full:
                text = f"warning: {self._path}: {error.strerror}; what is to be written is kept in memory"
                print(text, file=sys.stderr, flush=True)
            self._is_full = True
        else:
            self._kept, self._is_full = bytearray(), False

    def position(self) -> int:
        """The file's length in bytes, flushed to disk as far as that is possible."""
        with suppress(OSError):
            os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Try once more to append what is kept."""
        if self._kept:
            self.append(b"")
        self._file.close()
