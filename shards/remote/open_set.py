"""Opening a shard set by URL, and having the shards of a stream on this machine's disk before they are read.

In the random order only the bytes of each crop are asked for. In the stream order whole shards are downloaded into a
bounded cache, a few batches ahead, and are read from there as if they had always been local.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.format.manifest import read_manifest
from shards.order.random_order import Indices
from shards.order.stream_order import StreamOrder
from shards.reader.shard_set import ShardError, ShardSet
from shards.remote.cache import FileCache
from shards.remote.store import Patience, RemoteFolder, Store

if TYPE_CHECKING:
    from shards.loader.batches import Batch

log = logging.getLogger(__name__)

DOWNLOADS = 4
"""Shards that one process downloads at one time."""


def open_url(
    url: str, cache: FileCache | None = None, patience: Patience | None = None, options: Mapping[str, Any] | None = None
) -> ShardSet:
    """Open a shard set behind any URL that fsspec knows.

    With a `cache`, each shard is downloaded whole when it is first read, for the stream order; without one, parts of
    shards are asked for as they are needed, for the random order. `options` go to fsspec. Raises ShardError as
    `ShardSet.open` does, and OSError if the store cannot be read.
    """
    return open_store(Store(url, patience or Patience(), options or {}), cache)


def open_store(store: Store, cache: FileCache | None = None) -> ShardSet:
    """As `open_url`."""
    if cache is None:
        return ShardSet.open(RemoteFolder(store), mode="span")
    manifest = read_manifest(RemoteFolder(store))
    whole = {shard.name: (shard.bytes, shard.sha256) for shard in manifest.shards}
    if (largest := max((size for size, _ in whole.values()), default=0)) > cache.limit:
        raise ShardError(f"{store.url}: a shard has {largest} bytes, more than the cache of {cache.limit} bytes")
    return ShardSet.open(RemoteFolder(store, cache, whole))


def wells_per_shard(shards: ShardSet, wells: Indices) -> Indices:
    """How many of `wells`, which ascend, each shard of the set holds: the sizes of a stream order over them."""
    if (np.diff(wells) <= 0).any():
        raise ValueError("the wells of a stream must ascend, each once")
    of_well = shards.windows(wells, np.zeros((len(wells), 4), np.int64)).shard
    return np.bincount(of_well, minlength=len(shards.manifest.shards))


def fetched_ahead(
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
