"""The cache: never over its limit, no incomplete files, one download for many processes, any of which may be killed."""

import hashlib
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from shards.remote.cache import CacheFullError, FileCache, WrongContentError

SIZE = 1000


def content(number: int, size: int = SIZE) -> bytes:
    return random.Random(number).randbytes(size)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def find(cache: FileCache, number: int) -> bytes | None:
    file = cache.find(sha(content(number)))
    if file is None:
        return None
    with file:
        return file.read()


def cached(cache: FileCache, data: bytes, calls: list | None = None) -> bytes:
    def fill(file):
        if calls is not None:
            calls.append(1)
        file.write(data)

    with cache.get(sha(data), len(data), fill) as file:
        return file.read()


def test_a_file_is_filled_once_and_found_again(tmp_path):
    cache, calls = FileCache(tmp_path / "cache", 10 * SIZE), []
    assert find(cache, 0) is None
    assert [cached(cache, content(0), calls) for _ in range(3)] == [content(0)] * 3
    assert calls == [1]
    assert find(cache, 0) == content(0)
    assert cache.used() == SIZE


def test_the_least_recently_used_file_is_removed(tmp_path):
    cache = FileCache(tmp_path, 3 * SIZE)
    for number in range(3):
        cached(cache, content(number))
        os.utime(tmp_path / sha(content(number)), ns=(number, number))
    assert find(cache, 0) == content(0)  # used just now: 1 is the oldest, then 2
    with cache.find(sha(content(2))) as opened:
        os.utime(tmp_path / sha(content(2)), ns=(2, 2))
        os.utime(tmp_path / sha(content(0)), ns=(3, 3))
        cached(cache, content(3))
        present = [(tmp_path / sha(content(number))).exists() for number in range(4)]
        assert present == [True, False, True, True]
        os.utime(tmp_path / sha(content(3)), ns=(4, 4))
        cached(cache, content(4, 2 * SIZE))
        present = [(tmp_path / sha(content(number))).exists() for number in range(4)]
        assert present == [False, False, False, True]
        assert opened.read() == content(2)  # an open file stays readable
    assert cache.used() == 3 * SIZE


def test_a_file_larger_than_the_cache_is_refused_and_removes_nothing(tmp_path):
    cache = FileCache(tmp_path, 2 * SIZE)
    cached(cache, content(0))
    with pytest.raises(CacheFullError, match="2001 bytes more do not fit in a cache of 2000 bytes"):
        cached(cache, content(1, 2 * SIZE + 1))
    assert cache.used() == SIZE
    assert find(cache, 0) == content(0)


@pytest.mark.parametrize("wrong", [content(1)[:-1], content(1) + b"x", content(2), b""])
def test_wrong_content_is_named_and_leaves_nothing(tmp_path, wrong):
    cache = FileCache(tmp_path, 10 * SIZE)
    with pytest.raises(WrongContentError, match=sha(content(1))):
        cache.get(sha(content(1)), SIZE, lambda file: (file.truncate(0), file.write(wrong)))
    assert cache.used() == 0
    assert cached(cache, content(1)) == content(1)


def test_an_error_while_filling_leaves_nothing(tmp_path):
    cache = FileCache(tmp_path, 10 * SIZE)
    with pytest.raises(ConnectionResetError):
        cache.get(sha(content(1)), SIZE, lambda file: (_ for _ in ()).throw(ConnectionResetError()))
    assert cache.used() == 0


def _fill_many(folder: Path, seed: int, limit: int, peaks: "multiprocessing.Queue[int]", log: Path) -> None:
    cache, chance, peak = FileCache(folder, limit), random.Random(seed), 0
    for _ in range(60):
        data = content(chance.randrange(12))

        def fill(file, data=data):
            for begin in range(0, SIZE, 250):
                file.write(data[begin : begin + 250])
                file.flush()
                time.sleep(0.0005)
            with log.open("a") as lines:
                lines.write(sha(data) + "\n")

        with cache.get(sha(data), SIZE, fill) as file:
            assert file.read() == data
        peak = max(peak, cache.used())
    peaks.put(peak)


def test_processes_share_one_cache_within_its_limit(tmp_path):
    """Four processes, twelve files, space for eight: always complete files, and never more bytes than allowed."""
    context = multiprocessing.get_context("fork")
    peaks = context.Queue()
    args = [(tmp_path / "cache", seed, 8 * SIZE, peaks, tmp_path / "log") for seed in range(4)]
    workers = [context.Process(target=_fill_many, args=each) for each in args]
    for worker in workers:
        worker.start()
    used = [peaks.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert max(used) <= 8 * SIZE
    assert len((tmp_path / "log").read_text().split()) < 4 * 60  # some were in the cache, and not filled again


def _hang(folder: Path, started) -> None:
    def fill(file):
        file.write(content(1)[:500])
        file.flush()
        started.set()
        time.sleep(60)

    FileCache(folder, 2 * SIZE).get(sha(content(1)), SIZE, fill)


@pytest.mark.parametrize("same", [True, False])
def test_a_process_killed_while_downloading_blocks_nobody(tmp_path, same):
    """Its file is written again, or removed when others need the space."""
    context = multiprocessing.get_context("fork")
    started = context.Event()
    worker = context.Process(target=_hang, args=(tmp_path, started))
    worker.start()
    assert started.wait(30)
    cache = FileCache(tmp_path, 2 * SIZE)
    with pytest.raises(CacheFullError):  # the space of its download is reserved while it is alive
        cached(cache, content(2, SIZE + 1))
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)
    data = content(1) if same else content(2, 2 * SIZE)
    assert cached(cache, data) == data
    assert cache.used() == len(data)
