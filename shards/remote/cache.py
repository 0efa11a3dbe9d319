"""A size-limited cache of complete files on disk: downloads of the stream order, shared by all processes of a machine.

A file is named after its SHA-256, so a set that is built again does not use the files of the set before. The first
process that needs a file downloads it, with a lock on the unfinished file; others wait for it. The total size of all
files, finished or not, never exceeds the limit: the least recently used files are removed before a download begins. A
file that is removed while a process has it open stays readable there (POSIX).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from io import BufferedRandom, BufferedReader
from pathlib import Path

Fill = Callable[[BufferedRandom], None]


class CacheFullError(OSError):
    """A file does not fit into the cache next to the current downloads."""


class WrongContentError(OSError):
    """A download does not match its checksum or size."""


@dataclass(frozen=True)
class FileCache:
    """Files of at most `limit` bytes together. The folder must be on a file system with working `flock`."""

    folder: Path
    limit: int

    def find(self, sha256: str) -> BufferedReader | None:
        """The finished file with this checksum, open, and marked as just used; None if it is not in the cache."""
        try:
            file = (self.folder / sha256).open("rb")
        except FileNotFoundError:
            return None
        os.utime(file.fileno())
        return file

    def get(self, sha256: str, size: int, fill: Fill) -> BufferedReader:
        """The file with this checksum and size, open; written by `fill` if no process has finished it yet.

        Raises CacheFullError if it does not fit next to the current downloads of other processes, WrongContentError if
        what `fill` wrote has another checksum or size, and any error of `fill`. Nothing is left behind then.
        """
        if cached := self.find(sha256):
            return cached
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._unfinished(sha256) as file:
            unfinished = Path(file.name)
            if cached := self.find(sha256):
                unfinished.unlink()
                return cached
            try:
                self._reserve(file, size)
                fill(file)
                _check(file, sha256, size)
                os.fsync(file.fileno())
                with self._counting():
                    return unfinished.rename(self.folder / sha256).open("rb")
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise

    def used(self) -> int:
        """Bytes of all files, finished or not."""
        with self._counting():
            return sum(size for _, size, _ in self._files())

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Keep other processes from adding and renaming: a listing may miss or repeat a file that is being renamed."""
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _unfinished(self, sha256: str) -> Iterator[BufferedRandom]:
        """The unfinished file with this checksum, locked. The lock of a dead process is free; its file is rewritten."""
        path = self.folder / f"{sha256}.part"
        while True:
            with open(path, "r+b", opener=_create) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if _is_same(file, path):  # else it was finished or removed while we waited
                    yield file
                    return

    def _reserve(self, file: BufferedRandom, size: int) -> None:
        """Give the file its full size, after removing other files until it fits."""
        with self._counting():
            file.truncate(0)
            files = sorted(self._files())
            excess = sum(used for _, used, _ in files) + size - self.limit if size <= self.limit else 0
            for _, used, path in files:
                if excess <= 0:
                    break
                if used and _remove_unless_locked(path):
                    excess -= used
            if excess > 0 or size > self.limit:
                raise CacheFullError(f"{self.folder}: {size} bytes more do not fit in a cache of {self.limit} bytes")
            file.truncate(size)

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time of last use (ns), size and path of each file."""
        files = []
        for path in self.folder.iterdir():
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            files.append((state.st_mtime_ns, state.st_size, path))
        return files


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o644)


def _check(file: BufferedRandom, sha256: str, size: int) -> None:
    file.flush()
    file.seek(0)
    if os.fstat(file.fileno()).st_size != size or file_digest(file, "sha256").hexdigest() != sha256:
        raise WrongContentError(f"the download is not the file of {size} bytes with checksum {sha256}")


def _is_same(file: BufferedRandom, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_unless_locked(path: Path) -> bool:
    """Remove a finished file, or an unfinished one whose process is dead."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
