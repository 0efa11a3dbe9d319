"""Open a shard set by URL, with or without a cache on this machine's disk.

In the random order only the bytes of each crop are requested. In the stream order complete shards are downloaded into a
size-limited cache, a few batches ahead (`shards.loader.shard_prefetch`), and read from there like local files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shards.errors import ShardError
from shards.format.manifest import read_manifest
from shards.reader.shard_set import ShardSet
from shards.remote.cache import FileCache
from shards.remote.store import Patience, RemoteFolder, Store


def open_url(
    url: str, cache: FileCache | None = None, patience: Patience | None = None, options: Mapping[str, Any] | None = None
) -> ShardSet:
    """Open a shard set behind any URL that fsspec knows.

    With a `cache`, each shard is downloaded completely when it is first read, for the stream order; without one, parts
    of shards are requested as they are needed, for the random order. `options` go to fsspec. Raises ShardError as
    `ShardSet.open` does, and OSError if the store cannot be read.
    """
    return open_store(Store(url, patience or Patience(), options or {}), cache)


def open_store(store: Store, cache: FileCache | None = None, *, sizes: bool = True) -> ShardSet:
    """Like `open_url`, for a store; without `sizes` the shards are not looked for."""
    if cache is None:
        return ShardSet.open(RemoteFolder(store), mode="span", sizes=sizes)
    manifest = read_manifest(RemoteFolder(store))
    downloads = {shard.name: (shard.bytes, shard.sha256) for shard in manifest.shards}
    if (largest := max((size for size, _ in downloads.values()), default=0)) > cache.limit:
        raise ShardError(f"{store.url}: a shard has {largest} bytes, more than the cache of {cache.limit} bytes")
    return ShardSet.open(RemoteFolder(store, cache, downloads), sizes=sizes)
