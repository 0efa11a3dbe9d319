"""Read batches of crops on this rank: training crops in the exact global order, validation crops, well tiles.

The number of threads never changes what a run sees.

Shapes: B batch (of this rank), C channels, s crop size, T tiles of one well, K crops of a task, W wells.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.loader.read_ahead import Batch, Buffers, WorkBatch, read_ahead
from shards.order.random_order import Draws, Order, RandomOrder, placed
from shards.reader.shard_set import ShardSet

__all__ = [
    "Batch", "tile_batches", "tile_counts", "tiles_of_parts", "training_batches", "validation_batches", "well_tiles",
]  # fmt: skip

Indices = NDArray[np.int64]
TileSpan = tuple[int, NDArray[np.generic]]

TASK_BYTES = 4 << 20
"""Pixels of one task: a few milliseconds of decoding, many times the cost of handing it to a thread."""

TASK_CROPS = 64


def training_batches(
    shards: ShardSet,
    wells: Indices,
    *,
    crop: int,
    batch: int,
    seed: int,
    first_batch: int,
    last_batch: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 2,
    ahead: int | None = None,
    order: Order | None = None,
    sums: bool = False,
    pin: bool = False,
) -> Generator[Batch]:
    """Yield this rank's part of the global batches `first_batch` to `last_batch` (exclusive).

    `batch` counts the crops of all ranks together; global batch b is the same crops for every `world`. Without an
    `order`, `wells` are sampled without replacement, each once per epoch of `len(wells)` crops; a batch may span two
    epochs. `workers` threads read `ahead` batches ahead, by default two or as many as keep them busy; with 0 workers,
    batches are read when they are requested. `sums` adds the exact sums of pixels and squares, `pin` puts crops into
    pinned memory. Raises ValueError if `batch` does not divide by `world`; reading errors are raised at the batch that
    they belong to.
    """
    _check_rank(rank, world)
    if batch % world or batch < 1:
        raise ValueError(f"the global batch of {batch} does not divide by {world} ranks")
    part = batch // world
    sequence = RandomOrder(seed, len(wells)) if order is None else order
    buffers = Buffers(shards.manifest.pixel_type, pin)

    def drawn(first: int, count: int) -> Draws:
        sampled = wells[sequence.wells(first, count)]
        return placed(seed, first, sampled, shards.shapes[sampled], crop)

    def work_batch(numbers: range) -> WorkBatch:
        if world == 1:
            draws = [drawn(numbers.start * batch, len(numbers) * batch)]
        else:
            draws = [drawn(number * batch + rank * part, part) for number in numbers]
        singles = [partial(work_batch, range(number, number + 1)) for number in numbers] if len(numbers) > 1 else []
        return _work_batch(shards, draws, crop, part, buffers, sums, singles)

    per_work_batch = max(1, min(_crops_per_task(shards, crop) // part, ahead or last_batch))
    starts = range(first_batch, last_batch, per_work_batch)
    work = (work_batch(range(start, min(start + per_work_batch, last_batch))) for start in starts)
    return read_ahead(work, workers, ahead)


def validation_batches(
    shards: ShardSet, wells: Indices, *, crop: int, batch: int, rank: int = 0, world: int = 1, workers: int = 2
) -> Generator[Batch]:
    """Yield this rank's centre crops: each well once over all ranks, at most `batch` crops a step over all ranks.

    Every rank yields the same number of batches, so one collective operation per batch is safe; the last may be smaller
    on some ranks, or empty.
    """
    _check_rank(rank, world)
    parts = [np.array_split(wells[start : start + batch], world)[rank] for start in range(0, len(wells), batch)]
    buffers = Buffers(shards.manifest.pixel_type)

    def work_batch(part: Indices) -> WorkBatch:
        top, left = (shards.shapes[part] - crop).T // 2
        unflipped = np.zeros(len(part), dtype=bool)
        return _work_batch(shards, [Draws(part, top, left, unflipped, unflipped)], crop, len(part), buffers)

    return read_ahead(map(work_batch, parts), workers)


def well_tiles(
    shards: ShardSet, wells: Indices, *, crop: int, batch: int, rank: int = 0, world: int = 1, workers: int = 2
) -> Generator[Batch]:
    """Yield every tile of this rank's wells, in batches of `batch` tiles filled across wells; the last may be smaller.

    A well's tiles are the floor(H/s) x floor(W/s) squares from its upper left corner, 64 of 256 pixels in a 2048 x 2048
    image. Each well is decoded once, on exactly one rank, `wells[rank::world]`, and its tiles come one after another.
    """
    return tiles_of_parts(shards, [wells], crop=crop, batch=batch, rank=rank, world=world, workers=workers)


def tiles_of_parts(
    shards: ShardSet,
    parts: Iterable[Indices],
    *,
    crop: int,
    batch: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 2,
) -> Generator[Batch]:
    """Yield the tiles of one part of wells after another, each as `well_tiles` would: no batch holds two parts.

    While the last batches of a part are used, the first ones of the next are already read. `tile_batches` says how many
    of them are a part's.
    """
    _check_rank(rank, world)
    buffers = Buffers(shards.manifest.pixel_type)
    tiled = (_tiled(shards, wells[rank::world].tolist(), crop, batch, buffers) for wells in parts)
    return read_ahead(chain.from_iterable(tiled), workers)


def tile_counts(shards: ShardSet, wells: Indices, crop: int) -> Indices:
    """Tiles of each well: (W,)."""
    counts: Indices = (shards.shapes[wells] // crop).prod(axis=1)
    return counts


def tile_batches(shards: ShardSet, wells: Indices, *, crop: int, batch: int, rank: int = 0, world: int = 1) -> int:
    """How many batches `well_tiles` yields on this rank."""
    return -(-int(tile_counts(shards, wells[rank::world], crop).sum()) // batch)


def _crops_per_task(shards: ShardSet, crop: int) -> int:
    manifest = shards.manifest
    size = len(manifest.channels) * crop * crop * np.dtype(manifest.pixel_type).itemsize
    return max(1, min(TASK_CROPS, TASK_BYTES // max(1, size)))


def _work_batch(
    shards: ShardSet,
    draws: Sequence[Draws],
    crop: int,
    part: int,
    buffers: Buffers,
    sums: bool = False,
    retry_singly: Sequence[Callable[[], WorkBatch]] = (),
) -> WorkBatch:
    """Batches of `part` crops each, and the tasks that read them. The draws' wells are numbers in the set."""
    wells = np.concatenate([drawn.well for drawn in draws])
    corners = np.concatenate([np.stack([d.top, d.left, d.flip_vertical, d.flip_horizontal], axis=1) for d in draws])
    count, channels = len(wells), len(shards.manifest.channels)
    images = buffers.take(count, channels, crop, crop)
    totals = np.zeros((count, channels, 2), np.uint64) if sums else None
    windows, pixels, each = shards.windows(wells, corners), images.numpy(), _crops_per_task(shards, crop)
    tasks = [
        partial(shards.reader.read, windows.part(a, a + each), pixels[a : a + each], _rows(totals, a, a + each))
        for a in range(0, count, each)
    ]
    batches = [
        Batch(images[a : a + part], torch.from_numpy(wells[a : a + part]), _tensor(_rows(totals, a, a + part)))
        for a in range(0, max(count, 1), max(part, 1))
    ]
    return WorkBatch(batches, tasks, retry_singly)


def _rows(totals: NDArray[np.uint64] | None, begin: int, end: int) -> NDArray[np.uint64] | None:
    return None if totals is None else totals[begin:end]


def _tensor(totals: NDArray[np.uint64] | None) -> Tensor | None:
    return None if totals is None else torch.from_numpy(totals.view(np.int64))  # far below 2 ** 63


def _tiled(
    shards: ShardSet, wells: Sequence[int], crop: int, size: int, buffers: Buffers
) -> Iterator[WorkBatch]:  # fmt: skip
    """One task for each well, with the batches that are full once it is done."""
    channels = len(shards.manifest.channels)
    tiles = tile_counts(shards, np.array(wells, np.int64), crop)
    left, filled, batch = int(tiles.sum()), 0, None
    for well, count in zip(wells, tiles.tolist(), strict=True):
        spans, full, first = list[TileSpan](), list[Batch](), 0
        while first < count:
            if batch is None:
                images = buffers.take(min(size, left), channels, crop, crop)
                batch, filled = Batch(images, torch.empty(len(images), dtype=torch.int64)), 0
            added = min(count - first, len(batch.wells) - filled)
            batch.wells[filled : filled + added] = well
            spans.append((first, batch.images.numpy()[filled : filled + added]))
            first, filled, left = first + added, filled + added, left - added
            if filled == len(batch.wells):
                full.append(batch)
                batch = None
        yield WorkBatch(full, [partial(_cut, shards, well, crop, spans, buffers)])


def _cut(shards: ShardSet, well: int, crop: int, spans: Sequence[TileSpan], buffers: Buffers) -> None:
    """Decode a well and cut its tiles. A span: its first tile, and the array that it and the next ones fill."""
    height, width = shards.shapes[well].tolist()
    if not spans:
        raise ValueError(f"well {well} is {height} x {width}: smaller than a tile of {crop}")
    image = shards.read_well(well, into=buffers.take(len(shards.manifest.channels), height, width).numpy())
    for first, into in spans:
        for number, tile in enumerate(into, start=first):
            y, x = crop * (number // (width // crop)), crop * (number % (width // crop))
            tile[...] = image[:, y : y + crop, x : x + crop]


def _check_rank(rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not one of {world} ranks")
