"""Prefetching: the shards of a stream are downloaded before they are read."""

import time

import pytest
from faulty_server import serving

from shards.loader.batches import training_batches
from shards.loader.shard_prefetch import prefetch_shards
from shards.order.stream_order import StreamOrder
from shards.reader.shard_set import ShardSet, wells_per_shard
from shards.remote.cache import FileCache
from shards.remote.open_set import open_url
from shards.remote.store import Patience

BATCH, CROP = 12, 8


def prefetched(shards: ShardSet):
    """Three batches of a stream, and their order."""
    wells = shards.indices("train")
    order = StreamOrder(5, wells_per_shard(shards, wells), BATCH, lanes=2, crops=3, block=4)
    batches = training_batches(
        shards, wells, crop=CROP, batch=BATCH, seed=5, first_batch=0, last_batch=3, workers=0, order=order
    )
    return prefetch_shards(batches, shards, order, first_batch=0, last_batch=3), order


def test_shards_are_downloaded_before_they_are_read(set_of_62, tmp_path):
    """From the second batch on, reading waits for no download: the server refuses what is not in the cache yet."""
    with serving(set_of_62) as server:
        remote = open_url(server.url, FileCache(tmp_path / "cache", 10**7), Patience(1, 1, 0))
        batches, order = prefetched(remote)
        first = next(batches)
        needed = {remote.manifest.shards[shard].sha256 for shard in order.shards(0, 3)}
        deadline = time.monotonic() + 60
        while not needed <= {path.name for path in (tmp_path / "cache").iterdir()} and time.monotonic() < deadline:
            time.sleep(0.001)
        server.refuse = ".tar"  # but not the indices of shards that are not open yet
        rest = list(batches)
    assert (len(first.wells), len(rest)) == (BATCH, 2)


def test_batches_of_a_local_set_are_passed_through(set_of_62):
    shards = ShardSet.open(set_of_62)
    batches, order = prefetched(shards)
    wells = [well for batch in batches for well in batch.wells.tolist()]
    assert wells == shards.indices("train")[order.wells(0, 3 * BATCH)].tolist()


def test_closing_early_closes_the_batches(set_of_62, tmp_path):
    with serving(set_of_62) as server:
        batches, _ = prefetched(open_url(server.url, FileCache(tmp_path / "cache", 10**7)))
        next(batches)
        batches.close()
        with pytest.raises(StopIteration):
            next(batches)
