"""A tar file is read once, from its first to its last byte, in bounded memory; hostile ones only fail."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from shard_files import members_of, noisy

from shards.errors import ShardError
from shards.format.rebuild import BLOCK_BYTES, block_reader, parse_metadata, rebuild
from shards.format.writer import ShardWriter


def tar_of(count: int, metadata: bytes | None = None) -> bytes:
    file = io.BytesIO()
    writer = ShardWriter(file, "none", 16)
    for number in range(count):
        writer.add(f"well{number}", noisy((1, 20, 20), "uint8", number), {"number": number})
    writer.close()
    tar = file.getvalue()
    if metadata is not None:
        text = list(members_of(tar))[1]
        tar = tar[: text.offset] + metadata.ljust(text.size) + tar[text.offset + text.size :]
    return tar


def test_every_byte_is_read_once_in_order_and_hashed():
    tar = tar_of(3) + bytes(9000) + b"after the end mark"
    asked = []

    def read(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return tar[start:stop]

    rebuilt = rebuild(read, len(tar))
    assert rebuilt.index.tar_sha256 == hashlib.sha256(tar).hexdigest()
    assert [start for start, _ in asked] == [0, *(stop for _, stop in asked[:-1])]
    assert asked[-1][1] == len(tar)


@pytest.mark.parametrize("metadata", [b"[]", b"3", b"[[[[[[[", b"\xff", b"{"])
def test_metadata_that_is_not_an_object_is_refused_by_its_key(metadata):
    tar = tar_of(1, metadata)
    with pytest.raises(ShardError, match=r"well0: the metadata is not (JSON|a JSON object)"):
        rebuild(lambda start, stop: tar[start:stop], len(tar))


def test_nested_metadata_is_refused():
    with pytest.raises(ShardError, match="the metadata is not JSON"):
        parse_metadata(b"[" * 500_000)


@pytest.mark.slow
def test_every_byte_of_a_tar_header_may_be_hostile():
    """All 256 values of each byte of the first image's header, with tar's own checksum recomputed."""
    tar = tar_of(1)
    known = rebuild(lambda start, stop: tar[start:stop], len(tar))
    for at in range(512):
        for value in (0, 1, 0x20, 0x30, 0x37, 0x41, 0x7F, 0x80, 0xFF):
            header = bytearray(tar[:512])
            header[at] = value
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            changed = bytes(header) + tar[512:]
            try:
                rebuilt = rebuild(lambda start, stop, changed=changed: changed[start:stop], len(tar))
            except ShardError:
                continue
            assert rebuilt.index.records.tobytes() == known.index.records.tobytes()


def test_blocks_are_read_once_and_a_short_file_is_named():
    data, asked = bytes(range(256)) * (BLOCK_BYTES // 128), []

    def fetch(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return data[start:stop]

    read = block_reader(fetch, len(data))
    assert read(BLOCK_BYTES - 3, BLOCK_BYTES + 3) == data[BLOCK_BYTES - 3 : BLOCK_BYTES + 3]
    assert read(5, 9) == data[5:9]
    assert asked == [(0, BLOCK_BYTES), (BLOCK_BYTES, 2 * BLOCK_BYTES)]
    with pytest.raises(ShardError, match="cut short at byte"):
        read(len(data) - 1, len(data) + 1)


LARGE = """
import resource, sys
from shards.format.manifest import read_manifest
from shards.reader.sidecar import rebuild_index
from shards.reader.well_table import WellTable
from shards.remote.store import source_of
source = source_of(sys.argv[1])
table = WellTable.open(source, read_manifest(source))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rebuild_index(source, table, 0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("remote", [False, True])
def test_a_tar_file_of_any_length_is_hashed_in_bounded_memory(tmp_path, remote):
    """400 MB in images of 4 MB: at most a few blocks of 16 MB are in memory, from a disk and from a server."""
    from faulty_server import serving
    from shard_files import write_set

    image = np.random.default_rng(0).integers(0, 256, (1, 2048, 2048), np.uint8)
    folder = write_set(tmp_path / "set", [image] * 100, "none", 256, per=100)
    assert (folder / "train-000000.tar").stat().st_size > 400e6
    with serving(folder) as server:
        place = server.url if remote else str(folder)
        done = subprocess.run([sys.executable, "-c", LARGE, place], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 160 * 1024  # KiB
