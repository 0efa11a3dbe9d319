"""Read and write the sidecar index of a shard: where each image's chunks are, so that crops can be read directly.

    header      magic, version, wells, bytes and SHA-256 of the tar file, CRC-32C of header and records
    records     one per well image, in the order of the shard (`RECORD`)
    offsets     4 bytes each: for each image, where in its payload each chunk begins, and where the last one ends

The index is never the only copy: all of it can be read from the tar file, which is done if the sidecar is missing or
belongs to another tar file. Header and records are checked on opening, an image's offsets whenever they are used.

Shapes: W wells of the shard, N chunks of an image.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.codecs import CRC_BYTES, crc32c
from shards.format.payload import PREFIX, Header, check_size, header_bytes, index_bytes, read_bounds, read_header
from shards.format.tar import Member, ReadAt, members

MAGIC = b"wellidx\0"
VERSION = 1
HEADER = struct.Struct("<8sIIQ32s")
FIELDS = (
    "offset",
    "length",
    "height",
    "width",
    "first",
    "chunks",
    "checksum",
    "json_offset",
    "json_length",
    "json_crc",
)
"""Offset and length of the payload in the tar file; the image's shape; the first of its N + 1 entries in `offsets`, N,
and their CRC-32C; offset, length and CRC-32C of the metadata member."""
RECORD = np.dtype([(name, "<i8") for name in FIELDS])
MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class IndexRow:
    """The index entry of one image."""

    offset: int
    length: int
    height: int
    width: int
    bounds: NDArray[np.uint32]  # (N + 1,)
    json_offset: int
    json_length: int
    json_crc: int


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """An index in memory or memory-mapped."""

    tar_bytes: int
    tar_sha256: str
    records: NDArray[np.void]  # (W,) of RECORD
    offsets: NDArray[np.uint32]

    @classmethod
    def of(cls, rows: Sequence[IndexRow], tar_bytes: int, tar_sha256: str) -> ShardIndex:
        """Build the index from the rows of a shard."""
        records, first = np.zeros(len(rows), RECORD), 0
        for number, row in enumerate(rows):
            bounds = row.bounds.astype("<u4")
            checksum = crc32c(bounds.tobytes())
            chunks = len(bounds) - 1
            records[number] = (
                row.offset, row.length, row.height, row.width, first, chunks, checksum,
                row.json_offset, row.json_length, row.json_crc,
            )  # fmt: skip
            first += len(bounds)
        offsets = np.concatenate([row.bounds for row in rows]) if rows else np.empty(0, np.uint32)
        return cls(tar_bytes, tar_sha256, records, offsets.astype("<u4"))

    @classmethod
    def parse(cls, data: NDArray[np.uint8]) -> ShardIndex:
        """Open an index from its bytes, which are not copied; ShardError if it is damaged or of another version."""
        if len(data) < HEADER.size + CRC_BYTES:
            raise ShardError("the index is cut short")
        magic, version, wells, tar_bytes, sha256 = HEADER.unpack_from(data[: HEADER.size].tobytes())
        if magic != MAGIC or version != VERSION:
            raise ShardError(f"not an index of version {VERSION}")
        end = HEADER.size + wells * RECORD.itemsize
        if len(data) < end + CRC_BYTES or (len(data) - end - CRC_BYTES) % 4:
            raise ShardError("the index is cut short")
        if struct.pack("<I", crc32c(data[:end].tobytes())) != data[end : end + CRC_BYTES].tobytes():
            raise ShardError("the index is damaged: its checksum does not match")
        index = cls(tar_bytes, sha256.hex(), data[HEADER.size : end].view(RECORD), data[end + CRC_BYTES :].view("<u4"))
        index._check()
        return index

    def pack(self) -> bytes:
        """The bytes of the sidecar file."""
        sha256 = bytes.fromhex(self.tar_sha256)
        head = HEADER.pack(MAGIC, VERSION, len(self.records), self.tar_bytes, sha256) + self.records.tobytes()
        return head + struct.pack("<I", crc32c(head)) + self.offsets.tobytes()

    def bounds(self, position: int) -> NDArray[np.uint32]:
        """Offsets of the chunks of image `position` in its payload, (N + 1,), with their checksum verified."""
        record = self.records[position]
        first, chunks = int(record["first"]), int(record["chunks"])
        bounds = self.offsets[first : first + chunks + 1]
        if crc32c(bounds.tobytes()) != record["checksum"]:
            raise ShardError(f"the index of image {position} is damaged: its checksum does not match")
        return bounds

    @cached_property
    def addresses(self) -> tuple[int, int]:
        """Memory addresses of records and offsets, valid as long as this object exists."""
        return self.records.ctypes.data, self.offsets.ctypes.data

    def _check(self) -> None:
        """Refuse records that point outside the tar file or outside `offsets`."""
        records = self.records
        counted = np.cumsum(records["chunks"] + 1)
        fits = (
            (records["chunks"] > 0)
            & (records["first"] == counted - records["chunks"] - 1)
            & (records["height"] > 0)
            & (records["width"] > 0)
        )
        for kind in ("", "json_"):
            fits &= (records[f"{kind}offset"] >= 0) & (records[f"{kind}length"] >= 0)
            fits &= records[f"{kind}offset"] + records[f"{kind}length"] <= self.tar_bytes
        if not fits.all() or (len(records) and counted[-1] != len(self.offsets)):
            raise ShardError("the index points outside its shard")


def rebuild(read: ReadAt, tar_bytes: int, tar_sha256: str) -> tuple[ShardIndex, tuple[Header, ...], tuple[str, ...]]:
    """Read the index of a shard from its tar file: headers and ends of its payloads, not the pixels.

    Returns the index, and each image's header and key. Raises ShardError for anything that this format does not write.
    """
    rows, headers, keys = list[IndexRow](), list[Header](), list[str]()
    files = list(members(read, tar_bytes))
    if len(files) % 2:
        raise ShardError("the archive ends with an image that has no metadata, or the reverse")
    for image, text in zip(files[::2], files[1::2], strict=True):
        if (image.kind, text.kind) != ("zs", "json") or image.key != text.key:
            raise ShardError(
                f"members {image.key}.{image.kind} and {text.key}.{text.kind} are not an image and its metadata"
            )
        try:
            header, row = _index_row(read, image, text)
        except ShardError as error:
            raise ShardError(f"{image.key}: {error}") from None
        rows.append(row)
        headers.append(header)
        keys.append(image.key)
    return ShardIndex.of(rows, tar_bytes, tar_sha256), tuple(headers), tuple(keys)


def _index_row(read: ReadAt, image: Member, text: Member) -> tuple[Header, IndexRow]:
    prefix = read(image.offset, image.offset + min(PREFIX.size, image.size))
    header = read_header(read(image.offset, image.offset + min(header_bytes(prefix), image.size)))
    check_size(header)
    end = image.offset + image.size
    if index_bytes(header) > image.size:
        raise ShardError("the payload is shorter than its own index")
    bounds = read_bounds(header, image.size, read(end - index_bytes(header), end))
    if text.size > MAX_JSON_BYTES:
        raise ShardError(f"{text.size} bytes of metadata; {MAX_JSON_BYTES} are the limit")
    metadata = read(text.offset, text.offset + text.size)
    try:
        json.loads(metadata)
    except ValueError as error:
        raise ShardError(f"the metadata is not JSON: {error}") from None
    shape = (header.height, header.width)
    return header, IndexRow(image.offset, image.size, *shape, bounds, text.offset, text.size, crc32c(metadata))
