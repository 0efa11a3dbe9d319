"""Read the index of a shard from its tar file, and the SHA-256 of the file in the same pass.

Every byte is read once, in order, so what is indexed is what was hashed, however long that takes and whatever becomes
of the file. One image is in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from shards.errors import ShardError
from shards.format.codecs import crc32c
from shards.format.index import MAX_JSON_BYTES, IndexRow, ShardIndex
from shards.format.payload import MAX_PAYLOAD_BYTES, Header, chunk_crcs, index_bytes, read_bounds, read_header
from shards.format.tar import Member, ReadAt, members

BLOCK_BYTES = 16 << 20
"""Bytes of a tar file that are read at a time."""
CACHED_BLOCKS = 4


@dataclass(frozen=True)
class Rebuilt:
    """What a tar file holds. Its SHA-256 is in the index."""

    index: ShardIndex
    headers: tuple[Header, ...]
    keys: tuple[str, ...]


def rebuild(read: ReadAt, tar_bytes: int) -> Rebuilt:
    """Read a complete tar file of this many bytes; ShardError for anything that this format does not write."""
    rows, headers, keys = list[IndexRow](), list[Header](), list[str]()
    stream = _HashedStream(read)
    files = members(stream.read, tar_bytes)
    for image in files:
        payload = _content(stream, image, MAX_PAYLOAD_BYTES)
        text = next(files, None)
        if text is None:
            raise ShardError("the archive ends with an image that has no metadata, or the reverse")
        if (image.kind, text.kind) != ("zs", "json") or image.key != text.key:
            raise ShardError(
                f"members {image.key}.{image.kind} and {text.key}.{text.kind} are not an image and its metadata"
            )
        try:
            header, row = _index_row(image, payload, text, _content(stream, text, MAX_JSON_BYTES))
        except ShardError as error:
            raise ShardError(f"{image.key}: {error}") from None
        rows.append(row)
        headers.append(header)
        keys.append(image.key)
    stream.skip(tar_bytes)
    return Rebuilt(ShardIndex.of(rows, tar_bytes, stream.sha256()), tuple(headers), tuple(keys))


def parse_metadata(text: bytes) -> dict[str, object]:
    """The content of a metadata member; ShardError if it is not a JSON object."""
    try:
        metadata: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"the metadata is not JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise ShardError("the metadata is not a JSON object")
    return metadata


def block_reader(fetch: ReadAt, size: int) -> ReadAt:
    """Read a file of `size` bytes in large blocks and cache the last few, so that small reads share a request."""

    @lru_cache(CACHED_BLOCKS)
    def block(number: int) -> bytes:
        return fetch(number * BLOCK_BYTES, min(size, (number + 1) * BLOCK_BYTES))

    def read(begin: int, end: int) -> bytes:
        if not 0 <= begin <= end <= size:
            raise ShardError(f"the archive is cut short at byte {size}, before byte {end}")
        numbers = range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        return b"".join(block(n)[max(0, begin - n * BLOCK_BYTES) : end - n * BLOCK_BYTES] for n in numbers)

    return read


class _HashedStream:
    """Reads a file forwards, and hashes what is read and what is left out."""

    def __init__(self, read: ReadAt) -> None:
        self._read, self._at, self._hash = read, 0, hashlib.sha256()
        self.sha256: Callable[[], str] = self._hash.hexdigest

    def read(self, start: int, stop: int) -> bytes:
        self.skip(start)
        data = self._read(start, stop)
        self._hash.update(data)
        self._at = stop
        return data

    def skip(self, to: int) -> None:
        while self._at < to:
            stop = min(to, self._at + BLOCK_BYTES)
            self._hash.update(self._read(self._at, stop))
            self._at = stop


def _content(stream: _HashedStream, member: Member, limit: int) -> bytes:
    if member.size > limit:
        raise ShardError(f"{member.key}.{member.kind}: {member.size} bytes; {limit} are the limit")
    return stream.read(member.offset, member.offset + member.size)


def _index_row(image: Member, payload: bytes, text: Member, metadata: bytes) -> tuple[Header, IndexRow]:
    header = read_header(payload)
    if index_bytes(header) > image.size:
        raise ShardError("the payload is shorter than its own index")
    bounds = read_bounds(header, image.size, payload[-index_bytes(header) :])
    parse_metadata(metadata)
    crcs = chunk_crcs(payload, bounds)
    shape = (header.height, header.width)
    return header, IndexRow(image.offset, image.size, *shape, bounds, crcs, text.offset, text.size, crc32c(metadata))
