"""Shards of a stream, downloaded before they are read."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from shards.order.stream_order import StreamOrder
from shards.reader.shard_set import ShardSet
from shards.remote.open_set import log
from shards.remote.store import RemoteFolder

if TYPE_CHECKING:
    from shards.loader.read_ahead import Batch


DOWNLOADS = 4


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
    """Pass on the batches of a stream, `first_batch` to `last_batch`, and download the shards of those to come.

    Looks as far ahead as the largest shard lasts in its lane, so that each lane has its next shard under way. For a set
    that is not remote, or has no cache, batches are passed on as they are. A download that fails here is tried again,
    and reported, when the shard is read.
    """
    source = shards.source
    if not isinstance(source, RemoteFolder) or not source.whole:
        yield from batches
        return
    each = order.batch // order.lanes
    window = max(1, -(-int(np.max(order.sizes)) * order.crops // each))
    lanes = len(order.shards(first_batch, first_batch + 1, rank, world))
    shards.reader.open_shards = 2 * lanes  # an open file keeps its disk space, cached or not
    pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shard-download")
    asked: dict[int, Future[None]] = {}
    try:
        for number, batch in enumerate(chain([None], batches), first_batch):
            if batch is not None:
                yield batch
            if (number - first_batch) % max(1, window // 4) == 0:
                coming = order.shards(number, min(last_batch, number + window), rank, world).tolist()
                names = {shard: shards.manifest.shards[shard].name for shard in coming}
                asked = {shard: asked.get(shard) or pool.submit(_fetch, source, names[shard]) for shard in coming}
    finally:
        pool.shutdown(cancel_futures=True)
        batches.close()


def _fetch(source: RemoteFolder, name: str) -> None:
    try:
        source.fetch(name)
    except OSError as error:
        log.warning("%s", error)
