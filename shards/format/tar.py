"""Write plain USTAR archives, and find the members of an untrusted one.

Only what this format writes is accepted: regular files named `<key>.zs` and `<key>.json`, one header block each.
Members are found by offset and never extracted, and no header is followed that could make the reader allocate.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from shards.errors import ShardError

BLOCK = tarfile.BLOCKSIZE
NAME = re.compile(r"([A-Za-z0-9_+-]{1,90})\.(zs|json)")
MAX_TAR_BYTES = 1 << 48
ReadAt = Callable[[int, int], bytes]
"""Bytes `start` to `stop` of a file."""


@dataclass(frozen=True)
class Member:
    """A file in an archive, and the position of its content."""

    key: str
    kind: str  # zs or json
    offset: int
    size: int


class TarWriter:
    """Appends files to a tar stream; equal files give equal bytes. Call `close` after the last."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0

    def add(self, name: str, content: bytes) -> int:
        """Append one file and return the offset of its content."""
        header = tarfile.TarInfo(name)  # owner 0, time 0, mode 644
        header.size = len(content)
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self.bytes
        self._write(content)
        self._write(bytes(-len(content) % BLOCK))
        return offset

    def close(self) -> str:
        """End the archive and return its SHA-256 in hexadecimal."""
        self._write(bytes(2 * BLOCK))
        return self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)


def members(read: ReadAt, size: int) -> Iterator[Member]:
    """The members of an archive of `size` bytes, reading only its headers.

    Raises ShardError, naming the offset, for anything but this format's members, or if the archive is cut short.
    """
    offset = 0
    while True:
        if offset + BLOCK > size:
            raise ShardError(f"the archive is cut short at byte {size}: it has no end mark")
        header = read(offset, offset + BLOCK)
        if not any(header):
            return
        member = _member(header, offset)
        offset = member.offset + member.size + -member.size % BLOCK
        if offset > size:
            raise ShardError(f"the archive is cut short at byte {size}: {member.key}.{member.kind} ends at {offset}")
        yield member


def _member(header: bytes, offset: int) -> Member:
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
        raise ShardError(f"byte {offset}: not a tar header: {error}") from None
    name = NAME.fullmatch(info.name)
    if name is None or info.type != tarfile.REGTYPE or info.size < 0:
        raise ShardError(f"byte {offset}: member {info.name[:100]!r} is not a file <key>.zs or <key>.json")
    return Member(name[1], name[2], offset + BLOCK, info.size)
