"""Covers `remembered`: what is kept of a file is never older than the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.storage.remembered import SETTLED_NS, Identity, Remembered, identity

HOUR_NS = 3600 * 10**9


def age(path: Path, ns: int = HOUR_NS) -> None:
    """Date a file's content back."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - ns))


class Counted:
    """Reads a file, and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path, self.reads, self.files = path, 0, Remembered[str]()

    def read(self) -> str:
        return self.files.read(str(self.path), self._read)

    def _read(self) -> str:
        self.reads += 1
        return self.path.read_text()


def test_a_settled_file_is_read_once_and_again_when_it_changes(tmp_path: Path) -> None:
    counted = Counted(tmp_path / "file")
    counted.path.write_text("one")
    age(counted.path)
    assert [counted.read() for _ in range(3)] == ["one"] * 3
    assert counted.reads == 1
    counted.path.write_text("two!")
    assert counted.read() == "two!"
    assert counted.reads == 2


def test_a_file_that_was_just_written_is_read_every_time(tmp_path: Path) -> None:
    counted = Counted(tmp_path / "file")
    counted.path.write_text("one")
    before = counted.path.stat()
    assert counted.read() == "one"
    counted.path.write_text("two")  # in as many bytes, in the same inode, and within the same tick
    os.utime(counted.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert counted.read() == "two"
    assert counted.reads == 2


def test_a_replacement_with_the_same_times_and_size_is_seen(tmp_path: Path) -> None:
    counted = Counted(tmp_path / "file")
    counted.path.write_text("one")
    age(counted.path)
    assert counted.read() == "one"
    other = tmp_path / "other"
    other.write_text("two")
    status = counted.path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(counted.path)
    assert counted.path.stat().st_mtime_ns == status.st_mtime_ns
    assert counted.read() == "two"


def test_a_file_that_is_gone_is_no_file(tmp_path: Path) -> None:
    counted = Counted(tmp_path / "file")
    counted.path.write_text("one")
    age(counted.path)
    counted.read()
    counted.path.unlink()
    with pytest.raises(FileNotFoundError):
        counted.read()


def test_a_failed_read_is_tried_again(tmp_path: Path) -> None:
    files, path = Remembered[str](), tmp_path / "file"
    path.write_text("one")
    age(path)

    def fail() -> str:
        raise ValueError("damaged")

    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            files.read(str(path), fail)
    assert files.read(str(path), path.read_text) == "one"


@given(age=st.integers(-HOUR_NS, HOUR_NS))
def test_only_what_was_written_two_seconds_before_is_settled(age: int) -> None:
    now = 10**18
    assert Identity(now - age, now, 1, 1).is_settled(now) == (age > SETTLED_NS)


def test_the_identity_is_that_of_the_file_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    (tmp_path / "link").symlink_to("file")
    assert identity(f"{tmp_path}/link") == identity(f"{tmp_path}/file")
