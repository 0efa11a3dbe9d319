"""Open the sidecar index of a shard: checked against manifest and table, or rebuilt from the tar file."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.errors import ShardError
from shards.format.atomic import atomic_write
from shards.format.index import WORD, ShardIndex, head_bytes
from shards.format.manifest import MANIFEST, Manifest, Shard
from shards.format.rebuild import Rebuilt, block_reader, rebuild
from shards.format.source import LocalFolder, Source
from shards.format.tar import ReadAt
from shards.format.writer import WELLS
from shards.reader.well_table import WellTable

log = logging.getLogger(__name__)

_REBUILDING = threading.Lock()
"""Held by the thread that rebuilds an index, which may read gigabytes: the others use what it writes."""
REPAIR = "restore the file, or build the set again"


def open_index(source: Source, table: WellTable, number: int, descriptor: int | None = None) -> ShardIndex:
    """The index of a shard: its sidecar, or rebuilt from the tar file if there is no matching one.

    The tar file is read from `descriptor`, if there is one. Rebuilding reads all of it; it is logged, and writes the
    sidecar if possible. Raises ShardError if the tar file does not match the manifest; nothing is written then.
    """
    found = _sidecar(source, table, number)
    if isinstance(found, ShardIndex):
        return found
    with _REBUILDING:
        found = _sidecar(source, table, number)  # another thread may have written it
        if isinstance(found, ShardIndex):
            return found
        shard = table.manifest.shards[number]
        log.warning("%s/%s: %s; rebuilding it from %s", source.place, shard.index, found, shard.name)
        index = rebuild_index(source, table, number, descriptor)
        if isinstance(source, LocalFolder):
            try:
                write_sidecar(source.place, shard, index)
            except OSError as error:
                log.warning("%s: it will be rebuilt from the tar file each time", error)
    return index


def rebuild_index(source: Source, table: WellTable, number: int, descriptor: int | None = None) -> ShardIndex:
    """The index of a shard, from its complete tar file; ShardError, naming the file, if that is not of this set."""
    shard = table.manifest.shards[number]
    path = f"{source.place}/{shard.name}"
    try:
        rebuilt = rebuild(block_reader(_fetch(source, shard.name, descriptor), shard.bytes), shard.bytes)
    except (ShardError, OSError) as error:
        raise ShardError(f"{path}: {error}") from None
    if rebuilt.index.tar_sha256 != shard.sha256:
        raise ShardError(f"{path}: its checksum is not the one in {MANIFEST}: {REPAIR}")
    if fault := _content_fault(rebuilt, table, number):
        raise ShardError(f"{path}: {fault}")
    return rebuilt.index


def write_sidecar(folder: Path, shard: Shard, index: ShardIndex) -> None:
    """Write a sidecar; OSError, naming it, if it cannot be written."""
    try:
        with atomic_write(folder / shard.index) as file:
            file.write(index.pack())
    except OSError as error:
        raise OSError(f"{folder}/{shard.index}: cannot be written ({error})") from None


def kind_faults(rebuilt: Rebuilt, manifest: Manifest) -> Iterator[str]:
    """The images of a tar file whose headers do not match the manifest."""
    stated = (len(manifest.channels), manifest.pixel_type, manifest.chunk, manifest.codec)
    for key, header in zip(rebuilt.keys, rebuilt.headers, strict=True):
        if (header.channels, header.pixel_type, header.chunk, header.codec.name) != stated:
            yield f"{key}: not of the channels, pixel type, chunk and codec of {MANIFEST}"


def _sidecar(source: Source, table: WellTable, number: int) -> ShardIndex | str:
    """The sidecar of a shard, or why it cannot be used."""
    shard = table.manifest.shards[number]
    try:
        descriptor = source.descriptor(shard.index)
        if descriptor is not None:
            index = ShardIndex.open(descriptor, shard.wells)
        else:
            index = ShardIndex.parse(source.load(shard.index, _sidecar_bytes(table, number)))
    except FileNotFoundError:
        return "missing"
    except ShardError as error:
        return str(error).removeprefix(f"{source.place}/{shard.index}: ")
    return _mismatch(index, table, number) or index


def _sidecar_bytes(table: WellTable, number: int) -> int:
    """Bytes of a shard's index, by the shapes of its images in the table."""
    rows, columns = -(-table.shapes_of(number).T // table.manifest.chunk)
    return head_bytes(len(rows)) + WORD * int((2 * rows * columns + 1).sum())


def _mismatch(index: ShardIndex, table: WellTable, number: int) -> str | None:
    """Why an index is not of this shard; the table's shapes tell images from one another that the tar file does not."""
    shard = table.manifest.shards[number]
    if (index.tar_bytes, index.tar_sha256, len(index.records)) != (shard.bytes, shard.sha256, shard.wells):
        return "it belongs to another tar file"
    shapes = table.shapes_of(number)
    for side, name in enumerate(("height", "width")):
        if np.count_nonzero(index.records[name] != shapes[:, side]):
            return f"its images do not have the {name}s in {WELLS}"
    return None


def _content_fault(rebuilt: Rebuilt, table: WellTable, number: int) -> str | None:
    """How the content of a tar file differs from manifest and table."""
    if len(rebuilt.keys) != table.manifest.shards[number].wells:
        return f"{len(rebuilt.keys)} images, but {MANIFEST} says {table.manifest.shards[number].wells}"
    for key, listed in zip(rebuilt.keys, table.keys_of(number), strict=True):
        if key != listed:
            return f"it holds {key}, where {WELLS} lists {listed}"
    return next(kind_faults(rebuilt, table.manifest), None) or _mismatch(rebuilt.index, table, number)


def _fetch(source: Source, name: str, descriptor: int | None) -> ReadAt:
    def fetch(begin: int, end: int) -> bytes:
        if descriptor is None:
            return source.ranges([(name, begin, end)])[0]
        data = os.pread(descriptor, end - begin, begin)
        if len(data) != end - begin:
            raise ShardError(f"it ends at byte {begin + len(data)}, before byte {end}")
        return data

    return fetch
