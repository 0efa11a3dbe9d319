"""Write shards in parallel: each task writes one shard and a record of its result.

The record lets the next run keep the shard. It is written after the shard, so a kill between the two loses one shard.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from shards.builder.lock import Lock
from shards.builder.pixel_ranges import PixelCounts, PixelRanges
from shards.builder.source_images import SourceImages, States, read_source_images, states_of
from shards.errors import BuildError, ImageError, LayoutError
from shards.format.atomic import atomic_write
from shards.format.manifest import VERSION, Quarantined, Shard, Split
from shards.format.payload import MAX_IMAGE_BYTES
from shards.format.writer import DEFAULT_CHUNK, DEFAULT_CODEC, ShardWriter, WellLocation
from shards.images.locations import state
from shards.images.planes import Plane
from shards.images.regular_files import read_regular
from shards.reader.well_table import MAX_ROW_BYTES
from shards.tables.columns import FAULT, ORIGIN

RECORDS = ".build"
"""Folder of the records, inside the set's folder."""
MAX_RECORD_BYTES = 1 << 14
"""Of a record, per well, and 64 times as many in all at least."""

MAX_PADDED = 1.5
"""Bytes of an image in complete chunks, by those that an image may have: payloads have twice as many at most."""

OnError = Literal["stop", "quarantine"]
BuildRow = dict[str, object]


@dataclass(frozen=True)
class Task:
    """One shard to write: rows of the well table, in order."""

    output: Path
    name: str
    split: Split
    channels: tuple[str, ...]
    wells: tuple[BuildRow, ...]
    on_error: OnError
    eight_bit: str | None = None
    plane: Plane | None = None
    codec: str = DEFAULT_CODEC
    chunk: int = DEFAULT_CHUNK

    def fingerprint(self, states: Sequence[States]) -> str:
        """A digest of all inputs of the shard: rows, and for each of them the states of its image files."""
        rows = [
            {name: cell for name, cell in row.items() if name != ORIGIN and (cell or name != FAULT)}
            for row in self.wells
        ]
        plane = [] if self.plane is None else [self.plane]  # as before there was a choice
        return digest([VERSION, self.channels, rows, states, self.eight_bit, self.codec, self.chunk, *plane])

    @property
    def current_fingerprint(self) -> str:
        """The fingerprint by the states that the image files have now."""
        return self.fingerprint([states_of(_images(row)) for row in self.wells])

    @property
    def record(self) -> Path:
        """Path of this task's record."""
        return self.output / RECORDS / f"{self.name}.json"


class Record(BaseModel):
    """The result of one task."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fingerprint: str
    shard: Shard | None  # None if every well image was quarantined
    entries: dict[str, WellLocation]
    quarantined: tuple[Quarantined, ...]
    pixels: PixelCounts | None = None  # None: of 8 bits, or written before they were counted
    turned: int | None = None  # images that were stored with 0 as white; None: written before these were turned


def read_record(path: Path, wells: int) -> Record:
    """The record of a shard of this many wells; OSError or ValidationError if it is absent, damaged or too large."""
    return Record.model_validate_json(read_regular(path, MAX_RECORD_BYTES * (64 + wells)))


def digest(content: object) -> str:
    """SHA-256 of anything that JSON can represent; paths count as text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def finished_record(task: Task) -> Record | None:
    """The record of an earlier run, if its shard is still there and is what this task would write."""
    try:
        record = read_record(task.record, len(task.wells))
    except (OSError, ValidationError):
        return None
    if record.fingerprint != task.current_fingerprint or (record.quarantined and task.on_error == "stop"):
        return None
    written = state(str(task.output / task.name))
    complete = record.shard is None or (written is not None and written[0] == record.shard.bytes)
    return record if complete else None


def write_shard(task: Task) -> Record:
    """Write one shard and its record, one well image in memory at a time; ImageError if an unreadable one stops it.

    The record has the states that the image files had when these pixels were read.
    """
    task.record.unlink(missing_ok=True)  # an earlier one is not of the shard that is about to be replaced
    entries, quarantined, states, turned = dict[str, WellLocation](), list[Quarantined](), list[States](), 0
    pixels = PixelRanges()
    path = task.output / task.name
    with atomic_write(path) as file:
        writer = ShardWriter(file, task.codec, task.chunk)
        for row in task.wells:
            key, origin = str(row["key"]), str(row[ORIGIN])
            source = _source_images(row, task)
            states.append(source.states)
            error = source.error if source.image is None else _misfit(source.image, task.chunk)
            if source.image is not None and not error:
                entries[key] = writer.add(key, source.image, _metadata(task, row))
                turned += source.turned
                pixels.add(source.image)
            elif task.on_error == "stop":
                raise ImageError(f"{origin}: {error}")
            else:
                quarantined.append(Quarantined(key=key, origin=origin, error=error))
        sha256 = writer.close()
    shard, index = None, path.with_suffix(".idx")
    if entries:
        shard = Shard(name=task.name, split=task.split, wells=len(entries), bytes=writer.bytes, sha256=sha256)
        with atomic_write(index) as file:
            file.write(writer.index())
    else:
        path.unlink()
        index.unlink(missing_ok=True)
    record = Record(
        fingerprint=task.fingerprint(states), shard=shard, entries=entries, quarantined=tuple(quarantined),
        pixels=pixels.counted(), turned=turned,
    )  # fmt: skip
    with atomic_write(task.record) as file:
        file.write(record.model_dump_json().encode())
    return record


def _source_images(row: BuildRow, task: Task) -> SourceImages:
    """The images of a row; those of one with a fault are not read."""
    images, fault = _images(row), row[FAULT]
    if fault:
        return SourceImages(states_of(images), error=str(fault))
    return read_source_images(images, task.eight_bit, task.plane)


def _misfit(image: NDArray[np.generic], chunk: int) -> str:
    """Why an image (C, H, W) does not fit into a payload; empty if it does: a narrow one is padded to many chunks."""
    channels, height, width = image.shape
    size = channels * -(-height // chunk) * -(-width // chunk) * chunk**2 * image.dtype.itemsize
    if size <= MAX_PADDED * MAX_IMAGE_BYTES:
        return ""
    return f"images of {height} x {width} pixels take {size} bytes in chunks of {chunk} pixels: choose smaller chunks"


def _metadata(task: Task, row: BuildRow) -> dict[str, object]:
    """What is stored with a well image; LayoutError if readers would refuse a table of such rows."""
    described = {name: cell for name, cell in row.items() if name not in ("images", ORIGIN, FAULT)}
    metadata = {**described, "channels": task.channels}
    size = len(json.dumps(metadata))  # in ASCII, so at least what is stored
    if size > MAX_ROW_BYTES:
        raise LayoutError(f"{row[ORIGIN]}: its columns take {size} bytes; {MAX_ROW_BYTES} are the limit of a well")
    return metadata


def write_shards(tasks: Sequence[Task], workers: int, lock: Lock) -> Iterator[tuple[Task, Record]]:
    """Write shards in `workers` processes and yield them as they are finished, with few tasks in flight.

    The processes hold the lock, too, so that none of them writes after another build has taken it.
    """
    workers = min(workers, len(tasks))
    if workers == 1:
        yield from ((task, write_shard(task)) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(lock,))
    remaining = iter(tasks)
    pending: dict[Future[Record], Task] = {}
    try:
        while True:
            for task in islice(remaining, 2 * workers - len(pending)):
                pending[pool.submit(write_shard, task)] = task
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()
    except BrokenProcessPool:
        raise BuildError("a worker process was killed (out of memory?); run the same command to continue") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(lock: Lock) -> None:
    """End this worker when the build is killed; it would otherwise wait for tasks forever. `lock` ends with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _images(row: BuildRow) -> tuple[str, ...]:
    images = row["images"]
    assert isinstance(images, tuple)
    return images
