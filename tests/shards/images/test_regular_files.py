"""Local files: other kinds are refused, reading is bounded, and every way to change a file changes its state."""

import os
import re
from pathlib import Path

import pytest
from hostile_files import not_files

from shards.images.regular_files import FileTooLargeError, open_regular, read_regular, state_of


@pytest.mark.timeout(20)
def test_other_kinds_of_files_are_refused_by_name_without_reading(tmp_path):
    for kind, path in not_files(tmp_path).items():
        expected = kind.partition(",")[0] if kind != "an endless device" else "a character device"
        with pytest.raises(OSError, match=re.escape(f"{path} is {expected}, not a regular file")):
            open_regular(path)


def test_no_more_than_the_limit_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345678")
    assert read_regular(tmp_path / "a", 8) == b"12345678"
    with pytest.raises(FileTooLargeError, match="it has 8 bytes; 7 are the limit"):
        read_regular(tmp_path / "a", 7)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileTooLargeError, match="1099511627776 bytes"):
        read_regular(tmp_path / "sparse", 1 << 30)


def test_a_file_without_a_size_is_refused():
    """Files of /proc have 0 bytes by their status, and some of them never end."""
    with pytest.raises(OSError, match="its size does not say how much there is to read"):
        read_regular(Path("/proc/self/status"), 1 << 20)


def rewritten_in_place(path: Path) -> None:
    path.write_bytes(b"other")


def replaced_by_rename(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other")
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("change", [rewritten_in_place, replaced_by_rename, appended])
def test_a_changed_file_has_another_state_also_with_its_old_time(tmp_path, change):
    path = tmp_path / "a"
    path.write_bytes(b"pixel")
    os.utime(path, ns=(0, 1_000_000_000))
    before = state_of(path)
    change(path)
    os.utime(path, ns=(0, 1_000_000_000))
    assert state_of(path) != before


def test_a_link_that_points_elsewhere_has_another_state(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"pixel")
        os.utime(tmp_path / name, ns=(0, 1_000_000_000))
    (tmp_path / "link").symlink_to("a")
    before = state_of(tmp_path / "link")
    assert before == state_of(tmp_path / "a")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("b")
    assert state_of(tmp_path / "link") != before
    assert state_of(tmp_path / "none") is None
