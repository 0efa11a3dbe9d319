"""Files of a set on a local disk: sizes, ranges and complete files, and errors for what is not there."""

import os

import pytest

from shards.errors import ShardError
from shards.format.source import LocalFolder


@pytest.fixture
def source(tmp_path) -> LocalFolder:
    (tmp_path / "a.tar").write_bytes(bytes(range(100)))
    (tmp_path / "empty").touch()
    return LocalFolder(tmp_path)


def test_a_file_is_read_completely_or_in_ranges(source):
    assert (source.size("a.tar"), source.size("empty"), source.size("none")) == (100, 0, None)
    assert source.load("a.tar", 100) == bytes(range(100))
    assert source.load("empty", 0) == b""
    assert source.ranges([("a.tar", 90, 100), ("a.tar", 3, 5)]) == [bytes(range(90, 100)), bytes([3, 4])]
    descriptor = source.descriptor("a.tar")
    assert os.pread(descriptor, 2, 7) == bytes([7, 8])
    os.close(descriptor)


def test_a_short_or_absent_file_is_named(source):
    with pytest.raises(ShardError, match=r"a.tar: ends at byte 100, before byte 101"):
        source.ranges([("a.tar", 90, 101)])
    with pytest.raises(FileNotFoundError, match="none"):
        source.load("none", 100)
    with pytest.raises(ShardError, match=r"a.tar: 100 bytes; 99 are the limit"):
        source.load("a.tar", 99)


KINDS = {"pipe": "FIFO", "folder": "folder", "device": "character device", "loop": "link to itself"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_regular_file_is_named_at_once(source, kind):
    """Opening a pipe that nobody writes to would never return."""
    path = source.place / "b.idx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    for read in (source.descriptor, lambda name: source.load(name, 9), lambda name: source.ranges([(name, 0, 1)])):
        with pytest.raises(
            ShardError, match=r"b.idx is a (FIFO|folder|character device|link to itself), not a regular file"
        ):
            read("b.idx")
