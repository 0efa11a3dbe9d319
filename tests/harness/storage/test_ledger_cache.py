"""Covers `ledger_cache`: rows by way of the cache are those of the files, whatever happens to either."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.storage import ledger, ledger_cache
from harness.storage.ledger import LedgerError, LedgerRow
from harness.storage.ledger_cache import FEWEST, FILE, kept_rows

CELLS = [f"cell{number:02d}" for number in range(FEWEST + 5)]


def write(output: Path, cell: str, loss: float = 0.5, *, settled: bool = True) -> None:
    ledger.record(output, LedgerRow(cell, "train", "x", {"validation_loss": loss}))
    path = ledger.row_path(output, cell, "train")
    if settled:
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 3600 * 10**9))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A study with a row for each cell, and the cache of them."""
    for cell in CELLS:
        write(tmp_path, cell)
    read_all(tmp_path)
    assert (tmp_path / FILE).exists()
    return tmp_path


def read_all(output: Path) -> list[LedgerRow | None]:
    with kept_rows(output):
        return [ledger.read(output, cell, "train") for cell in CELLS]


_opened: list[str] | None = None


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_audit)  # it cannot be removed


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """The paths of the files that are opened in this context."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


def test_rows_that_have_not_changed_are_not_opened(output: Path) -> None:
    write(output, CELLS[3], 0.25)
    with opened_files() as opened:
        rows = read_all(output)
    assert [row.values["validation_loss"] for row in rows if row] == [0.5] * 3 + [0.25] + [0.5] * (len(CELLS) - 4)
    assert [path for path in opened if "/ledger/" in path] == [str(ledger.row_path(output, CELLS[3], "train"))]


def test_a_row_rewritten_in_as_many_bytes_is_read_again(output: Path) -> None:
    path = ledger.row_path(output, CELLS[0], "train")
    times = path.stat()
    path.write_text(path.read_text().replace("0.5", "0.4"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # only the time of the inode's change tells
    row = read_all(output)[0]
    assert row is not None
    assert row.values == {"validation_loss": 0.4}


def test_a_row_that_is_removed_is_missing(output: Path) -> None:
    ledger.row_path(output, CELLS[0], "train").unlink()
    assert read_all(output)[0] is None


def test_a_row_that_is_damaged_after_it_was_kept_is_an_error(output: Path) -> None:
    ledger.row_path(output, CELLS[0], "train").write_text("{")
    with pytest.raises(LedgerError, match="not a ledger row"):
        read_all(output)


def test_rows_written_moments_ago_are_not_kept(tmp_path: Path) -> None:
    for cell in CELLS:
        write(tmp_path, cell, settled=False)
    read_all(tmp_path)
    assert ledger_cache.read(tmp_path) == {}


def test_a_disk_whose_clock_is_behind_keeps_nothing_that_is_fresh_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cell in CELLS:
        write(tmp_path, cell)
    path = ledger.row_path(tmp_path, CELLS[0], "train")
    fstat, fresh = os.fstat, path.stat().st_mtime_ns

    def behind(file: int) -> os.stat_result:
        values = list(fstat(file))
        return os.stat_result(values, {"st_mtime_ns": fresh + 10**9, "st_mtime": (fresh + 10**9) / 1e9})

    monkeypatch.setattr("harness.storage.ledger_cache.os.fstat", behind)
    read_all(tmp_path)
    assert str(path) not in ledger_cache.read(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_cache_changes_nothing(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        for cell in CELLS:
            write(output, cell)
        rows, content = read_all(output), bytearray((output / FILE).read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        damage = data.draw(st.sampled_from(("bit", "cut", "empty", "nested")))
        if damage == "bit":
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        (output / FILE).write_bytes({"cut": content[:place], "empty": b"", "nested": b"[" * 10**5}.get(damage, content))
        assert read_all(output) == rows


@settings(max_examples=40, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(CELLS), st.sampled_from(("write", "fresh", "remove", "read")), st.floats(0.1, 0.9)),
        max_size=12,
    )
)
def test_rows_are_those_of_the_files_after_any_changes(changes: list[tuple[str, str, float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        for cell in CELLS:
            write(output, cell)
        for cell, change, loss in changes:
            if change == "remove":
                ledger.row_path(output, cell, "train").unlink(missing_ok=True)
            elif change == "read":
                read_all(output)
            else:
                write(output, cell, loss, settled=change == "write")
        assert read_all(output) == [ledger.read(output, cell, "train") for cell in CELLS]


def test_who_may_not_write_the_output_reads_without_a_cache(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (output / FILE).unlink()

    def refused(path: Path, write: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(ledger_cache, "write_atomic", refused)
    assert all(read_all(output))
    assert not (output / FILE).exists()


def test_a_few_new_rows_do_not_write_the_cache_again(output: Path) -> None:
    before = (output / FILE).stat().st_ino
    write(output, CELLS[0], 0.1)
    read_all(output)
    assert (output / FILE).stat().st_ino == before


def test_a_cache_of_another_version_is_not_used(output: Path) -> None:
    head, _, body = (output / FILE).read_bytes().partition(b"\n")
    assert json.loads(body)
    (output / FILE).write_bytes(head.replace(b"cache 1", b"cache 0") + b"\n" + body)
    assert ledger_cache.read(output) == {}
