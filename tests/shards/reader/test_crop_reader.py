"""Covers `crop_reader`, `kernel` and `c_functions`: windows equal slices of the image, damage is an error."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_files import members_of, noisy, write_set

from shards.errors import ShardError
from shards.format.codecs import CODECS, codec_named, crc32c
from shards.reader.shard_set import ShardSet


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)),
    dtype=st.sampled_from(["uint8", "uint16"]),
    codec=st.sampled_from(list(CODECS)),
    chunk=st.sampled_from([16, 32, 64]),
    mode=st.sampled_from(["runs", "span"]),
)
def test_the_kernel_agrees_with_numpy(tmp_path_factory, data, shape, dtype, codec, chunk, mode):
    """Any window of any image, by any codec, flipped or not, with its sums, equals a slice of the image."""
    image = np.random.default_rng(data.draw(st.integers(0, 99))).integers(
        0, np.iinfo(dtype).max + 1, shape, dtype=dtype
    )
    folder = write_set(tmp_path_factory.mktemp("set"), [image[:, ::-1], image], codec, chunk)
    shards = ShardSet.open(folder, mode=mode)
    size = [data.draw(st.integers(1, side)) for side in shape[1:]]
    top, left = (data.draw(st.integers(0, side - part)) for side, part in zip(shape[1:], size, strict=True))
    rows, columns = data.draw(st.booleans()), data.draw(st.booleans())
    out, sums = np.empty((1, shape[0], *size), dtype), np.empty((1, shape[0], 2), np.uint64)
    shards.reader.read(shards.windows(np.array([1]), np.array([[top, left, rows, columns]])), out, sums)
    expected = image[:, top : top + size[0], left : left + size[1]]
    expected = expected[:, :: -1 if rows else 1, :: -1 if columns else 1]
    assert np.array_equal(out[0], expected)
    wide = expected.astype(np.uint64)
    assert np.array_equal(sums[0], np.stack([wide.sum((1, 2)), (wide**2).sum((1, 2))], axis=1))


def test_a_crop_reads_only_its_chunks(tmp_path):
    """256 pixels of 2048: at most 25 of 1,024 chunks, in at most five runs of bytes."""
    image = np.zeros((1, 2048, 2048), np.uint8)
    shards = ShardSet.open(write_set(tmp_path / "set", [image], "none", 64))
    stored = 64 * 64 + 4
    for top, left, rows, columns in ((0, 0, 4, 4), (1, 1, 5, 5), (1792, 1792, 4, 4), (1000, 64, 5, 4)):
        (runs,) = shards.reader.runs(shards.windows(np.array([0]), np.array([[top, left, 0, 0]])), (256, 256))
        assert len(runs) == rows
        assert {stop - start for _, start, stop in runs} == {columns * stored}


def test_a_file_cut_short_while_it_is_read_is_an_error_not_a_crash(tmp_path):
    folder = write_set(tmp_path / "set", [noisy((1, 40, 40), "uint8")])
    shards = ShardSet.open(folder)
    shards.read_well(0)
    os.truncate(folder / "train-000000.tar", 2000)
    with pytest.raises(ShardError, match=r"train-000000.tar: image 0, .*the file cannot be read, or is too short"):
        shards.read_well(0)
    with pytest.raises(ShardError, match=r"train-000000.tar: 2000 bytes, but manifest.json says"):
        ShardSet.open(folder)


BOMB = """
import resource, struct, sys
from pathlib import Path
from typing import TypeVar
import numpy as np
from shards.errors import ShardError
from shards.reader.shard_set import ShardSet
from shards.format.payload import decode_payload
folder = Path(sys.argv[1])
shards = ShardSet.open(folder)
shards.read_well(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (lambda: shards.read_well(0), lambda: decode_payload((folder / "bomb").read_bytes())):
    try:
        read()
    except ShardError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_bomb_fails_in_bounded_memory(tmp_path, monkeypatch, codec):
    """A chunk whose frame states and has 2 GiB of zeros, under a valid checksum; built by replacing the encoder."""
    import imagecodecs
    import zstandard

    whole = bytes(1 << 31) if codec == "zstd" else bytes(1 << 30)
    frame = (
        zstandard.ZstdCompressor().compress(whole) if codec == "zstd" else imagecodecs.lz4_encode(whole, header=True)
    )
    bomb = bytes(frame) + struct.pack("<I", crc32c(bytes(frame)))
    del whole
    honest, calls = codec_named(codec).encode, []

    def encode(self, chunk):
        calls.append(1)
        return bomb if len(calls) == 1 else honest(chunk)

    monkeypatch.setattr(type(codec_named(codec)), "encode", encode)
    images = [noisy((1, 16, 16), "uint8", seed) for seed in range(2)]
    folder = write_set(tmp_path / "set", images, codec)
    first = next(members_of((folder / "train-000000.tar").read_bytes()))
    (folder / "bomb").write_bytes((folder / "train-000000.tar").read_bytes()[first.offset : first.offset + first.size])
    done = subprocess.run([sys.executable, "-c", BOMB, folder], capture_output=True, text=True, check=True)
    kernel, plain, grown = done.stdout.splitlines()
    assert "cannot be decompressed to a chunk of this size" in kernel
    assert "chunk 0 of 1: " in plain
    assert int(grown) < 64 * 1024 + len(bomb) // 256  # KiB; the plain decoder reads the complete file


def test_open_files_are_capped(tmp_path):
    images = [noisy((1, 20, 20), "uint8", seed) for seed in range(12)]
    folder = write_set(tmp_path / "set", images, per=1)
    shards = ShardSet.open(folder)
    shards.reader.max_open_shards = 3
    order = np.random.default_rng(0).permutation(np.tile(np.arange(12), 4))
    for index in order:
        assert np.array_equal(shards.read_well(index), images[index])
        assert open_files(folder) <= 2 * 3 + 1  # tar file and index of each, and the table
    windows = shards.windows(np.arange(12), np.zeros((12, 4), np.int64))
    out = np.empty((12, 1, 20, 20), np.uint8)
    shards.reader.read(windows, out)  # more at a time than may stay open
    assert np.array_equal(out, np.stack(images))


MANY_THREADS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from shards.reader.shard_set import ShardSet

shards = ShardSet.open(Path(sys.argv[1]))
shards.reader.max_open_shards = 32
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))

def read(seed):
    wells = np.random.default_rng(seed).permutation(300)
    out = np.empty((300, 1, 8, 8), np.uint8)
    shards.reader.read(shards.windows(wells, np.zeros((300, 4), np.int64)), out)
    return (out[:, 0, 0, 0] == wells % 251).all()

with ThreadPoolExecutor(8) as pool:
    print(all(pool.map(read, range(16))))
"""


@pytest.mark.slow
def test_threads_that_read_many_shards_at_once_stay_under_the_limit_of_open_files(tmp_path):
    """Eight threads, each with 300 crops of 300 shards: 2 x 32 descriptors in the cache, and 2 x 16 of each thread."""
    images = [np.full((1, 8, 8), number % 251, np.uint8) for number in range(300)]
    folder = write_set(tmp_path / "set", images, per=1)
    done = subprocess.run([sys.executable, "-c", MANY_THREADS, folder], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


def open_files(folder: Path) -> int:
    """How many files of a folder this process has open."""
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    return sum(link.startswith(str(folder)) for link in links)
