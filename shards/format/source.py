"""Read the files of a set: the `Source` protocol, and `LocalFolder` for this machine's file systems.

`shards.remote.store.RemoteFolder` is the source for object stores and web servers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from shards.errors import ShardError
from shards.images.regular_files import NotRegularError, descriptor_of

MAX_MANIFEST_BYTES = 1 << 28
"""Of `manifest.json`; 93,000 shards take 17 MB."""
Range = tuple[str, int, int]
"""Bytes of a file: its name inside the set, the first byte, and the end (exclusive)."""


class Source(Protocol):
    """Access to the files of a shard set. All methods are thread-safe."""

    @property
    def place(self) -> Path | str:
        """Folder or URL, for messages."""

    def size(self, name: str) -> int | None:
        """Bytes of a file of the set; None if there is no such file."""

    def load(self, name: str, limit: int) -> bytes:
        """All bytes of a file; OSError if there is no such file, ShardError if it has more than `limit` bytes."""

    def ranges(self, ranges: Sequence[Range]) -> Sequence[bytes]:
        """Parts of files, each exactly as long as requested; OSError if one cannot be read, ShardError if it ends."""

    def descriptor(self, name: str) -> int | None:
        """A new file descriptor that the caller closes; None if files can only be read by `ranges`.

        OSError if it cannot be opened, ShardError if it is not a regular file.
        """


@dataclass(frozen=True)
class LocalFolder:
    """A set on this machine's file systems."""

    place: Path

    def size(self, name: str) -> int | None:
        """See Source."""
        try:
            status = (self.place / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def load(self, name: str, limit: int) -> bytes:
        """See Source."""
        with self._opened(name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise ShardError(f"{self.place / name}: {size} bytes; {limit} are the limit")
            return file.read(size)

    def ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """See Source."""
        return [self._range(*span) for span in ranges]

    def descriptor(self, name: str) -> int:
        """See Source."""
        try:
            return descriptor_of(f"{self.place}/{name}")
        except NotRegularError as error:
            raise ShardError(str(error)) from None

    def _opened(self, name: str) -> BinaryIO:
        return os.fdopen(self.descriptor(name), "rb")

    def _range(self, name: str, start: int, stop: int) -> bytes:
        with self._opened(name) as file:
            file.seek(start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise ShardError(f"{self.place / name}: ends at byte {start + len(data)}, before byte {stop}")
        return data
