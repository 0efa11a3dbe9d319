"""Remote sets give the crops of local ones, in both orders, through faults; a rank downloads only its shards."""

import random

import numpy as np
import pytest
from faulty_server import FAULTS, serving

from shards.errors import ShardError
from shards.loader.batches import training_batches
from shards.loader.shard_prefetch import prefetch_shards
from shards.order.random_order import RandomOrder
from shards.order.stream_order import StreamOrder
from shards.reader.shard_set import ShardSet, wells_per_shard
from shards.remote.cache import FileCache
from shards.remote.open_set import open_url
from shards.remote.store import Patience, RemoteError
from shards.verify import main, verify

PATIENT = Patience(attempts=12, seconds=1, pause=0.002)


BATCH, CROP = 12, 8


@pytest.fixture
def server(set_of_62):
    with serving(set_of_62) as server:
        yield server


def order_of(name: str, shards: ShardSet, wells: np.ndarray):
    if name == "random":
        return RandomOrder(5, len(wells))
    return StreamOrder(5, wells_per_shard(shards, wells), BATCH, lanes=2, crops=3, block=4)


def crops(shards: ShardSet, name: str, first: int, last: int, rank: int = 0, world: int = 1) -> np.ndarray:
    wells = shards.indices("train")
    order = order_of(name, shards, wells)
    options = {"crop": CROP, "batch": BATCH, "seed": 5, "order": order, "rank": rank, "world": world}
    batches = training_batches(shards, wells, first_batch=first, last_batch=last, workers=2, **options)
    if name == "stream":
        span = {"first_batch": first, "last_batch": last}
        batches = prefetch_shards(batches, shards, order, **span, rank=rank, world=world)
    return np.concatenate([batch.images.numpy().copy() for batch in batches])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "stream"])
@pytest.mark.parametrize("faulty", [False, True])
def test_a_remote_set_gives_the_crops_of_the_local_one(set_of_62, server, tmp_path, name, faulty):
    if faulty:
        server.faults = iter(random.Random(2).choices([*FAULTS[:5], *[None] * 20], k=10_000))
    cache = FileCache(tmp_path / "cache", 10**7) if name == "stream" else None
    remote = open_url(server.url, cache, PATIENT)
    assert np.array_equal(crops(remote, name, 0, 16), crops(ShardSet.open(set_of_62), name, 0, 16))


def test_random_reading_requests_only_parts_of_shards(set_of_62, server):
    remote = open_url(server.url, None, PATIENT)
    before = server.bytes_sent
    remote.read_crop(3, 4, 5, 8)
    shard = next(shard for shard in remote.manifest.shards if shard.split == "train")
    assert 0 < server.bytes_sent - before < (set_of_62 / shard.index).stat().st_size + shard.bytes / 4


def test_a_rank_downloads_only_its_shards_and_each_once_in_a_pass(set_of_62, server, tmp_path):
    """Two ranks on two machines, a lane each: one of them downloads each shard, both the one at the cut."""
    times = []
    for rank in range(2):
        before = len(server.requests)
        cache = FileCache(tmp_path / f"cache-{rank}", 10**7)
        crops(open_url(server.url, cache, PATIENT), "stream", 0, 15, rank, 2)  # 15 batches of 12 of 186 crops
        tars = [name for name in server.requests[before:] if name.endswith(".tar") and name.startswith("train")]
        times.append(tars)
    # Opening requests the size of every shard, reading its bytes, here in one request.
    downloads = [{name for name in tars if tars.count(name) == 2} for tars in times]
    assert all(max(tars.count(name) for name in set(tars)) == 2 for tars in times)
    assert len(downloads[0] & downloads[1]) <= 1
    assert len(downloads[0] | downloads[1]) == 9


def test_a_cache_too_small_for_all_still_gives_the_right_crops_within_its_limit(set_of_62, server, tmp_path):
    largest = max(shard.bytes for shard in ShardSet.open(set_of_62).manifest.shards)
    cache = FileCache(tmp_path / "cache", 3 * largest)
    remote = open_url(server.url, cache, PATIENT)
    assert np.array_equal(crops(remote, "stream", 0, 16), crops(ShardSet.open(set_of_62), "stream", 0, 16))
    assert cache.used() <= 3 * largest


def test_a_cache_too_small_for_a_shard_is_refused_on_opening(server, tmp_path):
    with pytest.raises(ShardError, match=f"{server.url}: a shard has .* more than the cache of 1000 bytes"):
        open_url(server.url, FileCache(tmp_path / "cache", 1000), PATIENT)


def test_a_shard_that_cannot_be_downloaded_is_named_at_its_batch(server, tmp_path):
    remote = open_url(server.url, FileCache(tmp_path / "cache", 10**7), Patience(2, 1, 0.001))
    server.refuse = ".tar"
    with pytest.raises((RemoteError, ShardError), match=rf"{server.url}/train-\d+\.tar"):
        crops(remote, "stream", 0, 4)


@pytest.mark.parametrize("missing", ["manifest.json", "wells.parquet", "train-000003.tar"])
def test_a_remote_set_that_lacks_a_file_is_refused_by_url(server, missing):
    server.missing = missing
    with pytest.raises(ShardError, match=f"{server.url}/{missing}"):
        open_url(server.url, None, PATIENT)


def test_verify_reads_a_remote_set(server, capsys):
    assert main([server.url, "--sample", "4"]) == 0
    assert f"{server.url}: sound" in capsys.readouterr().out
    server.missing = "train-000002.tar"
    assert main([server.url, "--sample", "4"]) == 1
    assert f"{server.url}/train-000002.tar: missing" in capsys.readouterr().out


@pytest.mark.slow
def test_the_shards_of_an_s3_bucket_are_those_of_the_folder(set_of_62, tmp_path):
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto and flask are not installed")
    import s3fs

    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {"key": "key", "secret": "secret", "endpoint_url": f"http://{host}:{port}"}
        files = s3fs.S3FileSystem(**options, skip_instance_cache=True)
        if not files.exists("wells"):
            files.mkdir("wells")
        files.put(str(set_of_62), "wells/set", recursive=True)
        local = ShardSet.open(set_of_62)
        for name, cache in (("random", None), ("stream", FileCache(tmp_path / "cache", 10**7))):
            remote = open_url("s3://wells/set", cache, PATIENT, options)
            assert np.array_equal(crops(remote, name, 0, 16), crops(local, name, 0, 16))
        assert verify(remote.source, sample=3).faults == ()
    finally:
        server.stop()
