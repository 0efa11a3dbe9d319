"""Covers `store` and `http_range`: a network that fails or lies gives the right bytes, or an error naming the URL."""

import hashlib
import itertools
import random
import resource
import time

import pytest
from faulty_server import FAULTS, LIES, FaultyServer, serving

from shards.errors import ShardError
from shards.remote import store as store_module
from shards.remote.cache import FileCache, WrongContentError
from shards.remote.store import Patience, RemoteError, Store

DATA = random.Random(0).randbytes(100_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(attempts=3, seconds=0.5, pause=0.01)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train-000000.tar").write_bytes(DATA)
    with serving(tmp_path / "set") as server:
        yield server


def store(server: FaultyServer) -> Store:
    return Store(server.url, QUICK)


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (17, 4711), (99_999, 100_000), (0, 100_000), (5, 5)])
def test_a_range_is_read_and_no_more(server, begin, end):
    assert store(server).read("train-000000.tar", begin, end) == DATA[begin:end]
    assert server.bytes_sent == len(DATA[begin:end])


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "wrong bytes"])
def test_two_faults_are_survived_and_three_are_an_error_that_names_the_url(server, fault):
    server.faults = iter([fault, fault])
    assert store(server).read("train-000000.tar", 10, 20_000) == DATA[10:20_000]
    assert server.times("train-000000.tar") == 3
    server.faults = itertools.repeat(fault)
    start = time.monotonic()
    with pytest.raises(RemoteError, match=rf"{server.url}/train-000000.tar cannot be read \(attempt 3\): \w+"):
        store(server).read("train-000000.tar", 10, 20_000)
    assert server.times("train-000000.tar") == 6
    assert time.monotonic() - start < 3 * 0.5 + 10  # each attempt has its limit of 0.5 s; a busy machine adds pauses


def test_every_mixture_of_faults_gives_the_right_bytes(server):
    server.faults = iter(random.Random(1).choices([*FAULTS[:5], None, None, None], k=60))
    patient = Store(server.url, Patience(attempts=20, seconds=0.5, pause=0.001))
    ranges = [("train-000000.tar", begin, begin + 900) for begin in range(0, 99_000, 3000)]
    assert patient.read_many(ranges) == [DATA[begin:end] for _, begin, end in ranges]


@pytest.mark.parametrize(("fault", "attempts"), [("403", 1), ("401", 1), ("429", 3)])
def test_permanent_errors_are_not_tried_again(server, fault, attempts):
    server.faults = itertools.repeat(fault)
    with pytest.raises(OSError, match=f"{server.url}/train-000000.tar"):
        store(server).read("train-000000.tar", 0, 10)
    assert server.times("train-000000.tar") == attempts


def test_a_missing_file_is_named_at_once(server):
    with pytest.raises(FileNotFoundError, match=f"{server.url}/train-000009.tar"):
        store(server).read("train-000009.tar", 0, 10)
    assert server.times("train-000009.tar") == 1


def test_a_server_without_ranges_is_reported_at_once(server):
    server.ignore_ranges = True
    with pytest.raises(RemoteError, match=r"sends the complete file \(status 200\) for bytes 10 to 20"):
        store(server).read("train-000000.tar", 10, 20)
    assert server.times("train-000000.tar") == 1


@pytest.mark.parametrize("lie", LIES)
def test_other_bytes_than_requested_are_refused_at_once_and_not_collected(server, lie):
    """A body without end, or that grows when it is unpacked, is not read; megabytes may be on their way."""
    server.faults = itertools.repeat(lie)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        RemoteError, match=rf"{server.url}/train-000000.tar cannot be read \(attempt 1\): RangesIgnored"
    ):
        store(server).read("train-000000.tar", 10, 20)
    assert server.times("train-000000.tar") == 1
    assert server.bytes_sent < 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_complete_file_has_a_limit(server):
    assert store(server).load("train-000000.tar", len(DATA)) == DATA
    with pytest.raises(ShardError, match=rf"{server.url}/train-000000.tar: 100000 bytes; 99999 are the limit"):
        store(server).load("train-000000.tar", len(DATA) - 1)
    assert server.bytes_sent == len(DATA)
    with pytest.raises(FileNotFoundError, match=f"{server.url}/train-000009.tar"):
        store(server).load("train-000009.tar", 10)


def test_a_server_that_is_gone_is_an_error_after_the_last_attempt(tmp_path):
    with serving(tmp_path) as server:
        gone = store(server)
    with pytest.raises(RemoteError, match=r"cannot be read \(attempt 3\)"):
        gone.read("manifest.json", 0, 10)


@pytest.mark.parametrize("url", ["nosuchscheme://host/set", "http+odd://"])
def test_a_url_that_nothing_opens_is_named(url):
    with pytest.raises(RemoteError, match="cannot be opened"):
        Store(url, QUICK).read("manifest.json", 0, 10)


def test_a_local_folder_by_url(tmp_path):
    (tmp_path / "a.tar").write_bytes(DATA)
    assert Store(f"file://{tmp_path}").read("a.tar", 5, 50) == DATA[5:50]


def test_a_complete_file_is_downloaded_in_blocks_and_only_failed_blocks_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "DOWNLOAD_BYTES", 30_000)
    server.faults = iter([None, "reset", None, "truncated"])
    cache = FileCache(tmp_path / "cache", 10**6)
    for _ in range(2):
        with store(server).cached(cache, "train-000000.tar", len(DATA), SHA256) as file:
            assert file.read() == DATA
    assert server.times("train-000000.tar") == 6


def test_bytes_changed_in_transit_are_found_by_the_checksum(server, tmp_path):
    server.faults = iter(["wrong bytes"])
    cache = FileCache(tmp_path / "cache", 10**6)
    with pytest.raises(WrongContentError, match=f"{server.url}/train-000000.tar: the download is not the file"):
        store(server).cached(cache, "train-000000.tar", len(DATA), SHA256)
    assert cache.used() == 0
    with store(server).cached(cache, "train-000000.tar", len(DATA), SHA256) as file:
        assert file.read() == DATA


def test_a_download_that_fails_permanently_leaves_nothing(server, tmp_path):
    server.faults = itertools.repeat("500")
    cache = FileCache(tmp_path / "cache", 10**6)
    with pytest.raises(RemoteError, match="attempt 3"):
        store(server).cached(cache, "train-000000.tar", len(DATA), SHA256)
    assert cache.used() == 0


@pytest.fixture(scope="module")
def bucket():
    """A real S3 server on loopback with one bucket, `screen`; gives fsspec's options for it."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto and flask are not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "key", "secret": "secret", "endpoint_url": f"http://{host}:{port}"}
    import s3fs

    files = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    files.mkdir("screen")
    files.pipe_file("screen/set/train-000000.tar", DATA)
    yield options
    server.stop()


def test_an_s3_bucket_gives_ranges_and_complete_files(bucket, tmp_path):
    store = Store("s3://screen/set", QUICK, bucket)
    assert store.read("train-000000.tar", 17, 4711) == DATA[17:4711]
    ranges = [("train-000000.tar", begin, begin + 900) for begin in range(0, 99_000, 3000)]
    assert store.read_many(ranges) == [DATA[begin:end] for _, begin, end in ranges]
    with store.cached(FileCache(tmp_path / "cache", 10**6), "train-000000.tar", len(DATA), SHA256) as file:
        assert file.read() == DATA


def test_an_s3_object_that_is_missing_is_named(bucket):
    with pytest.raises(FileNotFoundError, match=r"s3://screen/set/train-000009\.tar"):
        Store("s3://screen/set", QUICK, bucket).read("train-000009.tar", 0, 10)
