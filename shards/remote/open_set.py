"""Opening a shard set by URL, and having the shards of a stream on this machine's disk before they are read.

In the random order only the bytes of each crop are asked for. In the stream order whole shards are downloaded into a
bounded cache, a few batches ahead, and are read from there as if they had always been local.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shards.errors import ShardError
from shards.format.manifest import read_manifest
from shards.reader.shard_set import ShardSet
from shards.remote.cache import FileCache
from shards.remote.store import Patience, RemoteFolder, Store

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

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
