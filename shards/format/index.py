"""Read and write the sidecar index of a shard: where each image's chunks are, so that crops can be read directly.

    header      magic, version, wells, bytes and SHA-256 of the tar file
    records     one per well image, in the order of the shard (`RECORD`)
    checksum    CRC-32C of header and records
    words       4 bytes each: for each image, where in its payload each of its chunks begins and the last one ends, and
                then the CRC-32C of each chunk

The index binds the pixels to the manifest: the SHA-256 is that of the tar file in which these CRC-32Cs were found
(`shards.format.rebuild`) or to which they were written (`shards.format.writer`), and the reader compares each chunk
with its CRC-32C here, not only with the one that is stored with the chunk. Header and records are checked on opening,
an image's words whenever they are used.

Shapes: W wells of the shard, N chunks of an image.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.codecs import CRC_BYTES, crc32c
from shards.format.payload import CHUNK_SIDES, MAX_IMAGE_BYTES, MAX_PAYLOAD_BYTES
from shards.format.tar import BLOCK, MAX_TAR_BYTES

MAGIC = b"wellidx\0"
VERSION = 2
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
"""Offset and length of the payload in the tar file; the image's shape; the first of its 2N + 1 words, N, and the words'
CRC-32C; offset, length and CRC-32C of the metadata member."""
RECORD = np.dtype([(name, "<i8") for name in FIELDS])
WORD = 4
MAX_JSON_BYTES = 1 << 20
_MAX_CHUNKS = MAX_IMAGE_BYTES // min(CHUNK_SIDES) ** 2
_LEAST = np.array([[BLOCK], [1], [1], [1], [0], [1], [0], [BLOCK], [0], [0]])
_MOST = np.array(
    [[MAX_TAR_BYTES], [MAX_PAYLOAD_BYTES], [MAX_IMAGE_BYTES], [MAX_IMAGE_BYTES], [MAX_TAR_BYTES], [_MAX_CHUNKS],
     [2**32 - 1], [MAX_TAR_BYTES], [MAX_JSON_BYTES], [2**32 - 1]]
)  # fmt: skip
"""Bounds of each field, (10, 1), which keep every sum below 2 ** 63."""
_RANGE = (_MOST - _LEAST).astype(np.uint64)


@dataclass(frozen=True)
class IndexRow:
    """The index entry of one image."""

    offset: int
    length: int
    height: int
    width: int
    bounds: NDArray[np.uint32]  # (N + 1,)
    crcs: NDArray[np.uint32]  # (N,)
    json_offset: int
    json_length: int
    json_crc: int


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """An index. Its words are in memory, or are read from the open file `descriptor`, which this object closes."""

    tar_bytes: int
    tar_sha256: str
    records: NDArray[np.void]  # (W,) of RECORD
    words: NDArray[np.uint32] | None
    descriptor: int = -1

    @classmethod
    def of(cls, rows: Sequence[IndexRow], tar_bytes: int, tar_sha256: str) -> ShardIndex:
        """Build the index from the rows of a shard, and the SHA-256 of the tar file that they were found in."""
        records, words, first = np.zeros(len(rows), RECORD), [np.empty(0, "<u4")], 0
        for number, row in enumerate(rows):
            words.append(np.concatenate([row.bounds, row.crcs]).astype("<u4"))
            records[number] = (
                row.offset, row.length, row.height, row.width, first, len(row.crcs), crc32c(words[-1].tobytes()),
                row.json_offset, row.json_length, row.json_crc,
            )  # fmt: skip
            first += len(words[-1])
        return cls(tar_bytes, tar_sha256, records, np.concatenate(words))

    @classmethod
    def parse(cls, data: bytes) -> ShardIndex:
        """Read an index from its bytes; ShardError if it is damaged or of another version."""
        tar_bytes, sha256, records = _parse_head(data, len(data))
        return cls(tar_bytes, sha256, records, np.frombuffer(data, "<u4", offset=head_bytes(len(records))))

    @classmethod
    def open(cls, descriptor: int, wells: int) -> ShardIndex:
        """Read header and records from an open file of this many wells, and keep the file open for the words.

        The file is not mapped: a mapped file that another process cuts ends this process. Raises ShardError as `parse`
        does, and for another number of wells; the descriptor is closed then.
        """
        try:
            head, size = os.pread(descriptor, head_bytes(wells), 0), os.fstat(descriptor).st_size
            return cls(*_parse_head(head, size), None, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def pack(self) -> bytes:
        """The bytes of the sidecar file, of an index whose words are in memory."""
        assert self.words is not None
        sha256 = bytes.fromhex(self.tar_sha256)
        head = HEADER.pack(MAGIC, VERSION, len(self.records), self.tar_bytes, sha256) + self.records.tobytes()
        return head + struct.pack("<I", crc32c(head)) + self.words.tobytes()

    def chunks(self, position: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Bounds, (N + 1,), and CRC-32Cs, (N,), of the chunks of an image in its payload.

        Raises ShardError if they are damaged, or point outside the payload.
        """
        record = self.records[position]
        count, words = int(record["chunks"]), self._image_words(position)
        if crc32c(words.tobytes()) != record["checksum"]:
            raise ShardError(f"the index of image {position} is damaged: its checksum does not match")
        bounds = words[: count + 1]
        if (np.diff(bounds.astype(np.int64)) < CRC_BYTES).any() or bounds[-1] > record["length"]:
            raise ShardError(f"the index of image {position} points outside its payload")
        return bounds, words[count + 1 :]

    def first_chunk(self) -> tuple[int, bytes]:
        """Where in the tar file the CRC-32C of the shard's first chunk is, and what it must be; not verified."""
        count = int(self.records[0]["chunks"])
        end, crc = self._words(1, 1), self._words(count + 1, 1)
        return int(self.records[0]["offset"]) + int(end[0]) - CRC_BYTES, crc.tobytes()

    @cached_property
    def records_at(self) -> int:
        """Address of the records, valid as long as this object exists."""
        return self.records.ctypes.data

    @cached_property
    def words_at(self) -> int:
        """Where the words begin: an address in memory, valid as long as this object exists, or a byte of the file."""
        return head_bytes(len(self.records)) if self.words is None else self.words.ctypes.data

    def _image_words(self, position: int) -> NDArray[np.uint32]:
        record = self.records[position]
        return self._words(int(record["first"]), 2 * int(record["chunks"]) + 1)

    def _words(self, first: int, count: int) -> NDArray[np.uint32]:
        if self.words is not None:
            return self.words[first : first + count]
        data = os.pread(self.descriptor, WORD * count, self.words_at + WORD * first)
        if len(data) != WORD * count:
            raise ShardError("the index is cut short")
        return np.frombuffer(data, "<u4")

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def head_bytes(wells: int) -> int:
    """Bytes of an index before its words."""
    return HEADER.size + wells * RECORD.itemsize + CRC_BYTES


def _parse_head(data: bytes, size: int) -> tuple[int, str, NDArray[np.void]]:
    """Bytes and SHA-256 of the tar file, and the records, of an index of `size` bytes, from its first bytes."""
    if len(data) < head_bytes(0):
        raise ShardError("the index is cut short")
    magic, version, wells, tar_bytes, sha256 = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise ShardError(f"not an index of version {VERSION}")
    end = head_bytes(wells)
    if len(data) < end:
        raise ShardError("the index is cut short, or of another number of wells")
    if crc32c(data[: end - CRC_BYTES]) != int.from_bytes(data[end - CRC_BYTES : end], "little"):
        raise ShardError("the index is damaged: its checksum does not match")
    fields = np.frombuffer(data, "<i8", len(FIELDS) * wells, HEADER.size).reshape(wells, len(FIELDS))
    if not _fits(fields, tar_bytes, (size - end) / WORD):
        raise ShardError("the index points outside its shard")
    return tar_bytes, sha256.hex(), fields.view(RECORD)[:, 0]


def _fits(fields: NDArray[np.int64], tar_bytes: int, words: float) -> bool:
    """Whether every record (W, 10) is in bounds and describes the next two members of the tar file, and the words."""
    columns = np.ascontiguousarray(fields.T)  # loops over wells are faster than loops over ten fields
    below = (columns - _LEAST).view(np.uint64)  # below the least wraps to above the most
    if tar_bytes > MAX_TAR_BYTES or not len(fields) or np.count_nonzero(below > _RANGE):
        return False
    offset, length, _, _, first, chunks, _, text, text_length, _ = columns
    after_image, after_text = offset + _padded(length), text + _padded(text_length)
    counted = first + 2 * chunks + 1
    return bool(
        (offset[0], first[0], counted[-1]) == (BLOCK, 0, words)
        and after_text[-1] <= tar_bytes
        and text.tobytes() == after_image.tobytes()
        and offset[1:].tobytes() == after_text[:-1].tobytes()
        and first[1:].tobytes() == counted[:-1].tobytes()
    )


def _padded(length: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes from a member's content to the next one's: padded to blocks, and the next header."""
    return (length + (2 * BLOCK - 1)) & -BLOCK
