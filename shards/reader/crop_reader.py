"""Read crops and wells into arrays: find their bytes by the sidecar index and pass them to the kernel.

Local files are read by the kernel itself; from other sources the byte ranges are fetched first. Files are opened on
first use, and a limited number of them stays open. Everything is thread-safe.

Shapes: K crops, C channels, h and w the crop's sides, R rows of chunks that a crop touches.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.codecs import CRC_BYTES, codec_named, max_stored
from shards.format.index import RECORD, ShardIndex
from shards.format.manifest import MANIFEST, Manifest
from shards.format.payload import Header
from shards.format.source import Range, Source
from shards.reader.sidecar import REPAIR, open_index
from shards.reader.well_table import WellTable

ReadMode = Literal["runs", "span"]
"""How to read a crop: one read per row of chunks, or one read from the first to the last. The latter reads about 4
times as many bytes in a fifth of the requests, for file systems where requests are expensive."""

OPEN_SHARDS = 256
"""Shards open at a time. Each takes two file descriptors, of which a process often has 1,024."""
HELD_SHARDS = 16
"""Shards of one call of the kernel, which stay open while it reads, evicted or not: what a thread adds at most."""

INDEX, READ, CHECKSUM, FRAME, FOREIGN, OUTSIDE = range(1, 7)
FAILURES = {
    INDEX: "the sidecar index does not match the image: rebuild it with python -m shards.index",
    READ: "the file cannot be read, or is too short",
    CHECKSUM: f"its checksum does not match: {REPAIR}",
    FRAME: "it cannot be decompressed to a chunk of this size",
    FOREIGN: f"it is whole, but not the chunk that the index lists, so the file is not the one of this set: {REPAIR}",
}


@dataclass(frozen=True)
class Windows:
    """Rectangles to read, all of one size: shard, position of the image in it, upper left corner, flips."""

    shard: NDArray[np.int64]  # (K,)
    position: NDArray[np.int64]  # (K,)
    corners: NDArray[np.int64]  # (K, 4): top, left, whether to flip rows, columns

    def __len__(self) -> int:
        return len(self.shard)

    def part(self, begin: int, end: int) -> Windows:
        """Windows `begin` to `end` (exclusive)."""
        return Windows(self.shard[begin:end], self.position[begin:end], self.corners[begin:end])


class OpenShard:
    """A shard's index, and its file where it has a descriptor. Closed when no reference to it is left."""

    def __init__(self, source: Source, table: WellTable, number: int) -> None:
        shard = table.manifest.shards[number]
        path = f"{source.place}/{shard.name}"
        self.descriptor = source.descriptor(shard.name)
        if self.descriptor is not None and (size := os.fstat(self.descriptor).st_size) != shard.bytes:
            raise ShardError(f"{path}: {size} bytes, but {MANIFEST} says {shard.bytes}: {REPAIR}")
        self.index = open_index(source, table, number, self.descriptor)
        if self.descriptor is not None:
            _check_first_chunk(path, self.descriptor, self.index)

    def kernel_input(self, position: int) -> tuple[int, int, int, int]:
        """What the kernel needs of an image: descriptor, address of its record, and where the index has its words."""
        descriptor = -1 if self.descriptor is None else self.descriptor
        record = self.index.records_at + RECORD.itemsize * position
        return descriptor, record, self.index.descriptor, self.index.words_at

    def __del__(self) -> None:
        if getattr(self, "descriptor", None) is not None:
            os.close(self.descriptor)  # type: ignore[arg-type]


@dataclass
class Reader:
    """Reads from the shards of one set."""

    source: Source
    table: WellTable
    mode: ReadMode = "runs"
    max_open_shards: int = OPEN_SHARDS
    _open: OrderedDict[int, OpenShard] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the set."""
        return self.table.manifest

    def read(self, windows: Windows, out: NDArray[np.generic], sums: NDArray[np.uint64] | None = None) -> None:
        """Fill `out` (K, C, h, w), and `sums` (K, C, 2) with the sums of pixels and of their squares.

        Raises ShardError, naming file and chunk, if anything is damaged, and ValueError for a window that leaves its
        image.
        """
        for begin, end in self._held(windows):
            self._read(windows.part(begin, end), out[begin:end], None if sums is None else sums[begin:end])

    def _held(self, windows: Windows) -> Iterator[tuple[int, int]]:
        """Begin and end of neighbouring windows that are read together: of at most `HELD_SHARDS` shards in files.

        Shards behind a URL have no files; all of their ranges are requested at once.
        """
        most = min(HELD_SHARDS, self.max_open_shards)
        if len(windows) <= most or self.open_shard(int(windows.shard[0])).descriptor is None:
            yield 0, len(windows)
            return
        begin, held = 0, set[int]()
        for place, number in enumerate(windows.shard.tolist()):
            if number not in held and len(held) == most:
                yield begin, place
                begin, held = place, set[int]()
            held.add(number)
        yield begin, len(windows)

    def _read(self, windows: Windows, out: NDArray[np.generic], sums: NDArray[np.uint64] | None) -> None:
        from shards.reader import kernel
        from shards.reader.c_functions import addresses

        if not len(windows):
            return
        shards = [self.open_shard(number) for number in windows.shard.tolist()]
        positions = windows.position.tolist()
        images = np.array([s.kernel_input(position) for s, position in zip(shards, positions, strict=True)], np.int64)
        memory, kept = self._fetched(windows, shards, out.shape[2:])
        codec, none = codec_named(self.manifest.codec), np.empty((0, out.shape[1], 2), np.uint64)
        most = max_stored(self._chunk_bytes)
        failure = kernel.read_crops(
            addresses(), self.manifest.chunk, out.itemsize, most, *codec.flags, self.mode == "span", images, memory,
            windows.corners, out.view(np.uint8), none if sums is None else sums,
        )  # fmt: skip
        del kept
        if failure[0]:
            self._fail(windows, shards, failure, out.shape[2:])

    def open_shard(self, number: int) -> OpenShard:
        """A shard of the manifest, open; the least recently used one is closed if there are too many."""
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        shard = OpenShard(self.source, self.table, number)
        with self._lock:
            self._open[number] = shard
            while len(self._open) > self.max_open_shards:
                self._open.popitem(last=False)
        return shard

    def runs(self, windows: Windows, size: tuple[int, ...]) -> list[list[Range]]:
        """The byte ranges of each window's rows of chunks, to be fetched by the caller. `size` is (h, w).

        Raises ShardError if the index of an image is damaged, and ValueError for a window that leaves its image.
        """
        runs = []
        for number, position, corner in zip(
            windows.shard.tolist(), windows.position.tolist(), windows.corners.tolist(), strict=True
        ):
            index, side = self.open_shard(number).index, self.manifest.chunk
            record, name = index.records[position], self.manifest.shards[number].name
            top, left = corner[:2]
            if not (0 <= top <= record["height"] - size[0] and 0 <= left <= record["width"] - size[1]):
                raise self._outside(number, position, (top, left), record, size)
            columns = -(-int(record["width"]) // side)
            bounds = self._bounds(index, position, name)
            first, last = left // side, (left + size[1] - 1) // side + 1
            rows = range(top // side, (top + size[0] - 1) // side + 1)
            ends = [(int(bounds[row * columns + first]), int(bounds[row * columns + last])) for row in rows]
            offset = int(record["offset"])
            runs.append([(name, offset + start, offset + stop) for start, stop in ends])
        return runs

    @cached_property
    def _chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return len(self.manifest.channels) * self.manifest.chunk**2 * np.dtype(self.manifest.pixel_type).itemsize

    def _bounds(self, index: ShardIndex, position: int, name: str) -> NDArray[np.uint32]:
        """Offsets of the chunks of an image, (N + 1,), checked as the kernel checks them."""
        manifest, record = self.manifest, index.records[position]
        try:
            bounds, _ = index.chunks(position)
        except ShardError as error:
            raise ShardError(f"{self.source.place}/{name}: image {position}: {error}: {FAILURES[INDEX]}") from None
        grid = [-(-int(record[side]) // manifest.chunk) for side in ("height", "width")]
        long = np.diff(bounds).max() > max_stored(self._chunk_bytes)
        if long or len(bounds) != grid[0] * grid[1] + 1:
            raise ShardError(f"{self.source.place}/{name}: image {position}: {FAILURES[FRAME if long else INDEX]}")
        return bounds

    def _fetched(
        self, windows: Windows, shards: Sequence[OpenShard], size: tuple[int, ...]
    ) -> tuple[NDArray[np.int64], object]:
        """Addresses of the runs, (K, R), and the buffers that hold them; (K, 0) if the kernel reads the files."""
        if all(shard.descriptor is not None for shard in shards):
            return np.empty((len(windows), 0), np.int64), None
        runs = self.runs(windows, size)
        if self.mode == "span":
            ranges = [(rows[0][0], rows[0][1], rows[-1][2]) for rows in runs]
        else:
            ranges = [run for rows in runs for run in rows]
        buffers = [np.frombuffer(data, np.uint8) for data in self.source.ranges(ranges)]
        memory, number = np.zeros((len(windows), max(map(len, runs))), np.int64), 0
        for k, rows in enumerate(runs):
            for r, run in enumerate(rows):
                buffer, begin = (buffers[k], rows[0][1]) if self.mode == "span" else (buffers[number], run[1])
                if len(buffer) < run[2] - begin:
                    raise ShardError(f"{self.source.place}/{run[0]}: bytes {run[1]} to {run[2]} came back incomplete")
                memory[k, r] = buffer.ctypes.data + run[1] - begin
                number += 1
        return memory, buffers

    def _fail(
        self, windows: Windows, shards: Sequence[OpenShard], failure: tuple[int, int, int], size: tuple[int, ...]
    ) -> None:
        """Raise the error that the kernel stopped at."""
        status, k, chunk = failure
        name, position = self.manifest.shards[int(windows.shard[k])].name, int(windows.position[k])
        record = shards[k].index.records[position]
        if status == OUTSIDE:
            corner = windows.corners[k, :2].tolist()
            raise self._outside(int(windows.shard[k]), position, corner, record, size)
        where = f"{self.source.place}/{name}: image {position}" + (f", chunk {chunk}" if chunk >= 0 else "")
        raise ShardError(f"{where} (payload at byte {record['offset']}): {FAILURES[status]}")

    def _outside(
        self, number: int, position: int, corner: Sequence[int], record: np.void, size: tuple[int, ...]
    ) -> ValueError:
        image = f"the {record['height']} x {record['width']} image {position} of {self.manifest.shards[number].name}"
        return ValueError(f"a window of {size[0]} x {size[1]} at ({corner[0]}, {corner[1]}) leaves {image}")


def decode_image(header: Header, index: ShardIndex, position: int, payload: bytes) -> NDArray[np.generic]:
    """Decode a complete image (C, H, W) from its payload, as `decode_payload` does, but by the kernel.

    `header` and `index` are read from the archive itself (`shards.format.rebuild`). Raises ShardError, naming the
    chunk, if one is damaged.
    """
    from shards.reader import kernel
    from shards.reader.c_functions import addresses

    out = np.empty((1, header.channels, header.height, header.width), header.pixel_type)
    data, none = np.frombuffer(payload, np.uint8), np.empty((0, header.channels, 2), np.uint64)
    bounds, _ = index.chunks(position)
    most = max_stored(header.channels * header.chunk**2 * out.itemsize)
    rows = bounds[: -1 : header.grid[1]].astype(np.int64)  # where each row of chunks begins
    images = np.array([[-1, index.records_at + RECORD.itemsize * position, -1, index.words_at]], np.int64)
    status, _, chunk = kernel.read_crops(
        addresses(), header.chunk, out.itemsize, most, *header.codec.flags, False, images,
        (data.ctypes.data + rows)[None], np.zeros((1, 4), np.int64), out.view(np.uint8), none,
    )  # fmt: skip
    if status:
        raise ShardError(f"chunk {chunk} of {header.chunks}: {FAILURES[status]}")
    image: NDArray[np.generic] = out[0]
    return image


def _check_first_chunk(path: str, descriptor: int, index: ShardIndex) -> None:
    """Refuse a tar file whose first chunk does not end in its checksum: a small read finds most foreign files at once.

    The kernel finds the others, as it compares every chunk that it reads.
    """
    try:
        at, crc = index.first_chunk()
        foreign = os.pread(descriptor, CRC_BYTES, at) != crc
        if foreign:
            index.chunks(0)
    except ShardError:
        return  # the index is damaged: reported when this image is read; others can be read
    if foreign:
        raise ShardError(
            f"{path}: not the file of this set, or damaged: its first chunk is not the one in the index: {REPAIR}"
        )
