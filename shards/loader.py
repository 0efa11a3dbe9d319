"""Shards → batches of crops on this rank: training crops in the exact global order, validation crops, well tiles.

Threads read ahead: reading is memory copies, during which NumPy releases the interpreter. A batch is a unit of work,
and batches leave in order, so the number of threads never changes what a run sees.

Shapes: B batch (of this rank), C channels, s crop size, T tiles of one well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.format import ShardSet
from shards.order import Draws, Order, RandomOrder, placed

Item = TypeVar("Item")
Indices = NDArray[np.int64]

READ_AHEAD = 2
"""Items under way or waiting per thread."""


@dataclass(frozen=True)
class Batch:
    """Crops of this rank, already flipped, in the shards' pixel type, and the well each comes from."""

    images: Tensor  # (B, C, s, s) uint8 or uint16
    wells: Tensor  # (B,) int64, indices into ShardSet.wells


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
    order: Order | None = None,
) -> Generator[Batch]:
    """Yield this rank's part of the global batches `first_batch` to `last_batch` (exclusive).

    `batch` counts the crops of all ranks together; global batch b is the same crops for every `world`. Without an
    `order`, `wells` are sampled without replacement, each once per epoch of `len(wells)` crops; a batch may span two
    epochs. `workers` threads read ahead; with 0, reading happens as batches are asked for. Raises ValueError if `batch`
    does not divide by `world`; reading errors surface at the batch they belong to.
    """
    _check_rank(rank, world)
    if batch % world or batch < 1:
        raise ValueError(f"the global batch of {batch} does not divide by {world} ranks")
    part = batch // world
    sequence = RandomOrder(seed, len(wells)) if order is None else order

    def load(number: int) -> Batch:
        first = number * batch + rank * part
        chosen = wells[sequence.wells(first, part)]
        return _read(shards, placed(seed, first, chosen, shards.shapes[chosen], crop), crop)

    return _ahead(load, range(first_batch, last_batch), workers)


def validation_batches(
    shards: ShardSet, wells: Indices, *, crop: int, batch: int, rank: int = 0, world: int = 1, workers: int = 2
) -> Iterator[Batch]:
    """Yield this rank's centre crops: each well once over all ranks, at most `batch` crops a step over all ranks.

    Every rank yields the same number of batches, so collectives in step with them are safe; the last may be smaller on
    some ranks, or empty.
    """
    _check_rank(rank, world)
    parts = [np.array_split(wells[start : start + batch], world)[rank] for start in range(0, len(wells), batch)]

    def load(part: Indices) -> Batch:
        top, left = (shards.shapes[part] - crop).T // 2
        unflipped = np.zeros(len(part), dtype=bool)
        return _read(shards, Draws(part, top, left, unflipped, unflipped), crop)

    return _ahead(load, parts, workers)


def well_tiles(
    shards: ShardSet, wells: Indices, *, crop: int, batch: int, rank: int = 0, world: int = 1, workers: int = 2
) -> Iterator[Batch]:
    """Yield every tile of this rank's wells, in batches of `batch` tiles filled across wells; the last may be smaller.

    A well's tiles are the floor(H/s) x floor(W/s) squares from its upper left corner, 64 of 256 pixels in a 2048 x 2048
    image. Each well is on exactly one rank, `wells[rank::world]`, and its tiles come one after another.
    """
    _check_rank(rank, world)
    waiting: list[Batch] = []
    with closing(_ahead(partial(_tiles, shards, crop), wells[rank::world].tolist(), workers)) as loaded:
        for tiles in loaded:
            *full, rest = _rebatch([*waiting, tiles], batch)
            yield from full
            waiting = [rest]
    if waiting and len(waiting[0].wells):
        yield waiting[0]


def _tiles(shards: ShardSet, size: int, index: int) -> Batch:
    image = torch.from_numpy(shards.read_well(index))  # (C, H, W)
    channels, height, width = image.shape
    rows, columns = height // size, width // size
    if not rows * columns:
        raise ValueError(f"well {index} is {height} x {width}: smaller than a tile of {size}")
    grid = image[:, : rows * size, : columns * size].reshape(channels, rows, size, columns, size)
    tiles = grid.permute(1, 3, 0, 2, 4).reshape(rows * columns, channels, size, size)  # (T, C, s, s)
    return Batch(tiles, torch.full((len(tiles),), index))


def _rebatch(parts: list[Batch], size: int) -> list[Batch]:
    """Join batches and cut them into full ones; the last of the list is what remains, perhaps nothing."""
    images, wells = torch.cat([part.images for part in parts]), torch.cat([part.wells for part in parts])
    cuts = range(0, len(wells) + 1, size)
    return [Batch(images[cut : cut + size], wells[cut : cut + size]) for cut in cuts]


def _read(shards: ShardSet, drawn: Draws, crop: int) -> Batch:
    """Read crops; `drawn.well` are indices into the shards."""
    shape = (len(drawn.well), len(shards.manifest.channels), crop, crop)
    images = np.empty(shape, np.dtype(shards.manifest.pixel_type))
    corners = np.stack([drawn.top, drawn.left, drawn.flip_vertical, drawn.flip_horizontal], axis=1)
    shards.reader.read(shards.windows(drawn.well, corners), images)
    return Batch(torch.from_numpy(images), torch.from_numpy(np.asarray(drawn.well)))


def _ahead(load: Callable[[Item], Batch], items: Iterable[Item], workers: int) -> Generator[Batch]:
    """Load items in order, at most READ_AHEAD per thread ahead of the consumer; closing ends the threads."""
    if not workers:
        yield from map(load, items)
        return
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="shard-reader")
    try:
        pending: deque[Future[Batch]] = deque(
            pool.submit(load, item) for item in islice(remaining, workers * READ_AHEAD)
        )
        while pending:
            loaded = pending.popleft().result()
            pending.extend(pool.submit(load, item) for item in islice(remaining, 1))
            yield loaded
    finally:
        pool.shutdown(cancel_futures=True)


def _check_rank(rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not one of {world} ranks")
