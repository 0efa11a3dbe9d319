"""Download the shards of a stream before they are read."""

from __future__ import annotations

import logging
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from shards.order.stream_order import StreamOrder
from shards.reader.shard_set import ShardSet
from shards.remote.store import RemoteFolder

if TYPE_CHECKING:
    from shards.loader.read_ahead import Batch

log = logging.getLogger(__name__)

DOWNLOADS = 4
"""Shards that one process downloads at a time."""


def prefetch_shards(
    batches: Generator[Batch],
    shards: ShardSet,
    order: StreamOrder,
    *,
    first_batch: int,
    last_batch: int,
    rank: int = 0,
    world: int = 1,
) -> Generator[Batch]:
    """Yield the batches of a stream, `first_batch` to `last_batch`, and download the shards of later ones meanwhile.

    Downloads reach as far ahead as the largest shard lasts in its lane, so that the next shard of each lane is on its
    way. For a local set, or without a cache, batches are passed through. A download that fails here is tried again
    when the shard is read, and its error is raised then.
    """
    source = shards.source
    if not isinstance(source, RemoteFolder) or not source.downloads:
        yield from batches
        return
    each = order.batch // order.lanes
    window = max(1, -(-int(np.max(order.sizes)) * order.crops // each))
    lanes = len(order.shards(first_batch, first_batch + 1, rank, world))
    shards.reader.max_open_shards = 2 * lanes  # an open file keeps its disk space, cached or not
    pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shard-download")
    downloads: dict[int, Future[None]] = {}
    try:
        for number, batch in enumerate(chain([None], batches), first_batch):
            if batch is not None:
                yield batch
            if (number - first_batch) % max(1, window // 4) == 0:
                upcoming = order.shards(number, min(last_batch, number + window), rank, world).tolist()
                names = {shard: shards.manifest.shards[shard].name for shard in upcoming}
                downloads = {
                    shard: downloads.get(shard) or pool.submit(_fetch, source, names[shard]) for shard in upcoming
                }
    finally:
        pool.shutdown(cancel_futures=True)
        batches.close()


def _fetch(source: RemoteFolder, name: str) -> None:
    try:
        source.fetch(name)
    except OSError as error:
        log.warning("%s", error)
