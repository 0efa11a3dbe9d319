"""Read the files of a set: the `Source` protocol, and `LocalFolder` for this machine's file systems.

`shards.remote.store.RemoteFolder` is the source for object stores and web servers.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Range = tuple[str, int, int]
"""Bytes of a file: its name inside the set, the first byte, and the end (exclusive)."""


class Source(Protocol):
    """Access to the files of a shard set. All methods are thread-safe."""

    @property
    def place(self) -> Path | str:
        """Folder or URL, for messages."""

    def size(self, name: str) -> int | None:
        """Bytes of a file of the set; None if there is no such file."""

    def load(self, name: str) -> NDArray[np.uint8]:
        """All bytes of a file, read or memory-mapped; OSError if there is no such file."""

    def ranges(self, ranges: Sequence[Range]) -> Sequence[bytes]:
        """Parts of files, each exactly as long as requested; OSError if a file is absent or too short."""

    def descriptor(self, name: str) -> int | None:
        """A new file descriptor that the caller closes; None if files can only be read by `ranges`."""


@dataclass(frozen=True)
class LocalFolder:
    """A set on this machine's file systems."""

    place: Path

    def size(self, name: str) -> int | None:
        """See Source."""
        path = self.place / name
        return path.stat().st_size if path.is_file() else None

    def load(self, name: str) -> NDArray[np.uint8]:
        """See Source; memory-mapped."""
        with (self.place / name).open("rb") as file:  # np.memmap takes twice the time
            if not os.fstat(file.fileno()).st_size:
                return np.empty(0, np.uint8)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

    def ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """See Source."""
        return [self._range(*span) for span in ranges]

    def descriptor(self, name: str) -> int:
        """See Source."""
        return os.open(self.place / name, os.O_RDONLY | os.O_CLOEXEC)

    def _range(self, name: str, start: int, stop: int) -> bytes:
        with (self.place / name).open("rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise OSError(f"{self.place / name}: ends at byte {start + len(data)}, before byte {stop}")
        return data
