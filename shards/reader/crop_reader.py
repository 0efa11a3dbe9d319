"""Read crops and wells into arrays: find their bytes by the sidecar index and pass them to the kernel.

Local files are read by the kernel itself; from other sources the byte ranges are fetched first. Files are opened on
first use, and a limited number of them stays open. Everything is thread-safe.

Shapes: K crops, C channels, h and w the crop's sides, R rows of chunks that a crop touches.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.atomic import atomic_write
from shards.format.codecs import codec_named
from shards.format.index import RECORD, ShardIndex, rebuild
from shards.format.manifest import Manifest, Shard
from shards.format.payload import Header
from shards.format.source import LocalFolder, Range, Source

log = logging.getLogger(__name__)

ReadMode = Literal["runs", "span"]
"""How to read a crop: one read per row of chunks, or one read from the first to the last. The latter reads about 4
times as many bytes in a fifth of the requests, for file systems where requests are expensive."""

OPEN_SHARDS = 256
"""Shards open at a time. Each takes two file descriptors, of which a process often has 1,024."""

INDEX, READ, CHECKSUM, FRAME, OUTSIDE = range(1, 6)
FAILURES = {
    INDEX: "the sidecar index does not match the image: rebuild it with python -m shards.index",
    READ: "the file cannot be read, or is too short",
    CHECKSUM: "its checksum does not match",
    FRAME: "it cannot be decompressed to a chunk of this size",
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

    def __init__(self, source: Source, shard: Shard, manifest: Manifest) -> None:
        self.index = open_index(source, shard, manifest)
        self.descriptor = source.descriptor(shard.name)
        if self.descriptor is not None and os.fstat(self.descriptor).st_size != shard.bytes:
            raise ShardError(
                f"{source.place}/{shard.name}: {os.fstat(self.descriptor).st_size} bytes, not {shard.bytes}"
            )

    def kernel_input(self, position: int) -> tuple[int, int, int]:
        """What the kernel needs of an image: descriptor, addresses of its record and of the shard's offsets."""
        records, offsets = self.index.addresses
        return -1 if self.descriptor is None else self.descriptor, records + RECORD.itemsize * position, offsets

    def __del__(self) -> None:
        if getattr(self, "descriptor", None) is not None:
            os.close(self.descriptor)  # type: ignore[arg-type]


@dataclass
class Reader:
    """Reads from the shards of one set."""

    source: Source
    manifest: Manifest
    mode: ReadMode = "runs"
    max_open_shards: int = OPEN_SHARDS
    _open: OrderedDict[int, OpenShard] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, windows: Windows, out: NDArray[np.generic], sums: NDArray[np.uint64] | None = None) -> None:
        """Fill `out` (K, C, h, w), and `sums` (K, C, 2) with the sums of pixels and of their squares.

        Raises ShardError, naming file and chunk, if anything is damaged, and ValueError for a window that leaves its
        image.
        """
        from shards.reader import kernel
        from shards.reader.c_functions import addresses

        if not len(windows):
            return
        shards = [self.open_shard(number) for number in windows.shard.tolist()]
        positions = windows.position.tolist()
        images = np.array([s.kernel_input(position) for s, position in zip(shards, positions, strict=True)], np.int64)
        memory, kept = self._fetched(windows, shards, out.shape[2:])
        codec, none = codec_named(self.manifest.codec), np.empty((0, out.shape[1], 2), np.uint64)
        failure = kernel.read_crops(
            addresses(), self.manifest.chunk, out.itemsize, *codec.flags, self.mode == "span", images, memory,
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
        shard = OpenShard(self.source, self.manifest.shards[number], self.manifest)
        with self._lock:
            self._open[number] = shard
            while len(self._open) > self.max_open_shards:
                self._open.popitem(last=False)
        return shard

    def runs(self, windows: Windows, size: tuple[int, ...]) -> list[list[Range]]:
        """The byte ranges of each window's rows of chunks, to be fetched by the caller. `size` is (h, w)."""
        runs = []
        for number, position, corner in zip(
            windows.shard.tolist(), windows.position.tolist(), windows.corners.tolist(), strict=True
        ):
            index, side = self.open_shard(number).index, self.manifest.chunk
            record, bounds = index.records[position], index.bounds(position)
            columns = -(-int(record["width"]) // side)
            top, left = corner[:2]
            first, last = left // side, (left + size[1] - 1) // side + 1
            rows = range(top // side, (top + size[0] - 1) // side + 1)
            ends = [(int(bounds[row * columns + first]), int(bounds[row * columns + last])) for row in rows]
            name, offset = self.manifest.shards[number].name, int(record["offset"])
            runs.append([(name, offset + start, offset + stop) for start, stop in ends])
        return runs

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
            top, left = windows.corners[k, :2].tolist()
            image = f"the {record['height']} x {record['width']} image {position} of {name}"
            raise ValueError(f"a window of {size[0]} x {size[1]} at ({top}, {left}) leaves {image}")
        where = f"{self.source.place}/{name}: image {position}" + (f", chunk {chunk}" if chunk >= 0 else "")
        raise ShardError(f"{where} (payload at byte {record['offset']}): {FAILURES[status]}")


def decode_image(header: Header, index: ShardIndex, position: int, payload: bytes) -> NDArray[np.generic]:
    """Decode a complete image (C, H, W) from its payload, as `decode_payload` does, but by the kernel.

    `header` and `index` are read from the archive itself (`shards.format.index.rebuild`). Raises ShardError, naming the
    chunk, if one is damaged.
    """
    from shards.reader import kernel
    from shards.reader.c_functions import addresses

    out = np.empty((1, header.channels, header.height, header.width), header.pixel_type)
    data, none = np.frombuffer(payload, np.uint8), np.empty((0, header.channels, 2), np.uint64)
    rows = index.bounds(position)[: -1 : header.grid[1]].astype(np.int64)  # where each row of chunks begins
    records, offsets = index.addresses
    images = np.array([[-1, records + RECORD.itemsize * position, offsets]], np.int64)
    status, _, chunk = kernel.read_crops(
        addresses(), header.chunk, out.itemsize, *header.codec.flags, False, images, (data.ctypes.data + rows)[None],
        np.zeros((1, 4), np.int64), out.view(np.uint8), none,
    )  # fmt: skip
    if status:
        raise ShardError(f"chunk {chunk} of {header.chunks}: {FAILURES[status]}")
    image: NDArray[np.generic] = out[0]
    return image


def open_index(source: Source, shard: Shard, manifest: Manifest) -> ShardIndex:
    """The index of a shard: its sidecar, or rebuilt from the tar file if there is no matching one.

    Rebuilding is logged, and writes the sidecar if possible. Raises ShardError if the tar file does not match the
    manifest.
    """
    try:
        index = ShardIndex.parse(source.load(shard.index))
    except FileNotFoundError:
        reason = "missing"
    except ShardError as error:
        reason = str(error)
    else:
        if (index.tar_bytes, index.tar_sha256, len(index.records)) == (shard.bytes, shard.sha256, shard.wells):
            return index
        reason = "it belongs to another tar file"
    log.warning("%s/%s: %s; rebuilding it from %s", source.place, shard.index, reason, shard.name)
    index = rebuild_index(source, shard, manifest)
    if isinstance(source, LocalFolder):
        write_sidecar(source.place, shard, index)
    return index


def rebuild_index(source: Source, shard: Shard, manifest: Manifest) -> ShardIndex:
    """The index of a shard, from its tar file; ShardError, naming the file, if that does not match the manifest."""
    path = f"{source.place}/{shard.name}"
    try:
        index, headers, _ = rebuild(
            lambda start, stop: bytes(source.ranges([(shard.name, start, stop)])[0]), shard.bytes, shard.sha256
        )
    except (ShardError, OSError) as error:
        raise ShardError(f"{path}: {error}") from None
    stated = (len(manifest.channels), manifest.pixel_type, manifest.chunk, manifest.codec)
    for number, header in enumerate(headers):
        if (header.channels, header.pixel_type, header.chunk, header.codec.name) != stated:
            raise ShardError(
                f"{path}: image {number} does not have the channels, pixel type, chunk and codec of the manifest"
            )
    if len(headers) != shard.wells:
        raise ShardError(f"{path}: {len(headers)} images, but the manifest says {shard.wells}")
    return index


def write_sidecar(folder: Path, shard: Shard, index: ShardIndex) -> None:
    """Write a sidecar, or log why it cannot be written."""
    try:
        with atomic_write(folder / shard.index) as file:
            file.write(index.pack())
    except OSError as error:
        log.warning(
            "%s/%s: cannot be written (%s): it will be rebuilt from the tar file each time", folder, shard.index, error
        )
