"""Locations: a path, an fsspec URL or a row of a Parquet file give the same bytes, and say what is wrong."""

import http.server
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.images import locations as sources
from shards.images.locations import find, is_file, is_folder, join, read_bytes, row_location, state
from shards.images.regular_files import FileTooLargeError


@pytest.fixture
def quick(monkeypatch):
    """No pauses between attempts at a failing URL."""
    monkeypatch.setattr(sources, "PAUSES", (0.0, 0.0))


def test_the_same_bytes_by_path_file_url_memory_and_http(tmp_path, web):
    (tmp_path / "plate 1").mkdir()
    (tmp_path / "plate 1" / "ü,w1.png").write_bytes(b"pixels")
    with fsspec.open("memory://sources/plate 1/ü,w1.png", "wb") as file:
        file.write(b"pixels")
    for root in (str(tmp_path), f"file://{tmp_path}", "memory://sources"):
        location = join(root, "plate 1/ü,w1.png")
        assert read_bytes(location) == b"pixels"
        assert is_file(location)
        assert is_folder(join(root, "plate 1"))
        assert not is_folder(join(root, "plate 2"))
        assert [location.removeprefix(join(root, "")) for location in find(join(root, ""))] == ["plate 1/ü,w1.png"]
    (tmp_path / "a.png").write_bytes(b"other")
    assert read_bytes(f"{web}/a.png") == b"other"
    assert f"{web}/a.png" in list(find(web))


def test_absolute_paths_and_urls_are_taken_as_they_are():
    assert join("/data/", "a/b.png") == "/data/a/b.png"
    assert join("s3://bucket/x", "a.png") == "s3://bucket/x/a.png"
    assert join("/data", "/other/a.png") == "/other/a.png"
    assert join("/data", "s3://bucket/a.png") == "s3://bucket/a.png"
    assert join("file:///data", "a.png") == "/data/a.png"


@pytest.mark.parametrize(
    ("location", "error", "message"),
    [
        ("nothere://bucket/a.png", OSError, r"nothere://bucket/a.png cannot be opened: .*nothere"),
        ("memory://none/a.png", FileNotFoundError, "a.png"),
        ("http://127.0.0.1:9/a.png", OSError, r"http://127.0.0.1:9/a.png cannot be read: "),
    ],
)
def test_errors_name_the_url(quick, location, error, message):
    with pytest.raises(error, match=message):
        read_bytes(location)


def test_a_url_that_fails_once_is_tried_again(quick, web, tmp_path):
    (tmp_path / "a.png").write_bytes(b"pixels")
    web.failures += ["a.png"] * 2
    assert read_bytes(f"{web}/a.png") == b"pixels"
    web.failures += ["a.png"] * 3
    with pytest.raises(OSError, match="503"):
        read_bytes(f"{web}/a.png")
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{web}/b.png")


@pytest.fixture
def parquet(tmp_path) -> str:
    """Ten rows in groups of four: plain bytes, and the struct of published image datasets."""
    values = [f"row {number}".encode() for number in range(9)] + [b""]
    images = [{"bytes": value, "path": None} for value in values]
    table = pa.table({"__key__": [str(n) for n in range(10)], "plain": values, "jp2": images})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=4)
    return str(tmp_path / "train.parquet")


@pytest.mark.parametrize("column", ["plain", "jp2"])
def test_rows_of_a_parquet_file_in_any_order(parquet, column):
    for row in (5, 0, 8, 3, 4, 7):
        assert read_bytes(row_location(parquet, row, column)) == f"row {row}".encode()
    assert state(row_location(parquet, 5, column)) == state(parquet)


def test_a_parquet_file_that_is_replaced_is_read_again(parquet):
    assert read_bytes(row_location(parquet, 1, "plain")) == b"row 1"
    Path(parquet).unlink()
    pq.write_table(pa.table({"plain": [b"new"] * 3}), parquet)
    assert read_bytes(row_location(parquet, 1, "plain")) == b"new"


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        (10, "jp2", "train.parquet has no row 10; it has 10"),
        (0, "png", "has no column 'png'; it has __key__, plain, jp2"),
        (9, "jp2", "row 9 of column 'jp2' holds no bytes"),
        (0, "__key__", "row 0 of column '__key__' holds no bytes"),
    ],
)
def test_a_row_that_is_not_there_is_named(parquet, row, column, message):
    with pytest.raises(OSError, match=re.escape(message)):
        read_bytes(row_location(parquet, row, column))


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(OSError, match=r"x.parquet cannot be read as Parquet"):
        read_bytes(f"{tmp_path}/x.parquet#0.jp2")
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{tmp_path}/none.parquet#0.jp2")


def test_parquet_rows_over_http(parquet, web):
    assert read_bytes(f"{web}/train.parquet#6.jp2") == b"row 6"


@pytest.fixture
def endless() -> Iterator[str]:
    """A URL whose answer has no length and never ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a.png"
    server.shutdown()
    server.server_close()


@pytest.mark.timeout(30)
def test_an_answer_without_an_end_is_refused_once_it_is_too_long(endless):
    begin = time.monotonic()
    with pytest.raises(FileTooLargeError, match="more than 1000000 bytes"):
        read_bytes(endless, 1_000_000)
    assert time.monotonic() - begin < 10


def test_no_more_than_the_limit_is_read_of_any_url(web, tmp_path):
    (tmp_path / "a.png").write_bytes(bytes(100))
    with fsspec.open("memory://limits/a.png", "wb") as file:
        file.write(bytes(100))
    for location in (f"{web}/a.png", "memory://limits/a.png", "simplecache::memory://limits/a.png"):
        assert read_bytes(location, 100) == bytes(100)
        with pytest.raises(FileTooLargeError, match="more than 99 bytes"):
            read_bytes(location, 99)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("before", ["", "file://", "local://", "simplecache::file://", "simplecache::local://"])
def test_a_local_file_by_url_is_opened_as_a_path_or_not_at_all(before):
    with pytest.raises(OSError, match=r"a character device, not a regular file|give a local file by its path"):
        read_bytes(f"{before}/dev/zero")


@pytest.mark.slow
def test_any_error_of_a_url_names_it():
    """fsspec's file systems raise errors of all kinds for what they cannot make sense of."""
    for location in ("github://nothing", "zip://a.png::nowhere://b", "s3://"):
        with pytest.raises(OSError, match=re.escape(location)):
            read_bytes(location)


@pytest.mark.parametrize("column", ["plain", "jp2"])
def test_a_row_group_that_is_too_large_is_refused(tmp_path, monkeypatch, column):
    """A dictionary may repeat one large value in every row, so that a small file has any number of bytes."""
    monkeypatch.setattr(sources, "MAX_GROUP_BYTES", 1_000_000)
    values = [bytes(100_000)] * 1000
    table = pa.table({"plain": values, "jp2": [{"bytes": value, "path": None} for value in values]})
    pq.write_table(table, tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    with pytest.raises(FileTooLargeError, match=rf"bomb.parquet: column '{column}' of row group 0 takes more than"):
        read_bytes(row_location(f"{tmp_path}/bomb.parquet", 0, column))


def test_a_number_of_a_row_that_is_too_long_is_no_row(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{tmp_path}/x.parquet#{'9' * 30}.jp2")


def test_damaged_parquet_files_are_errors_wherever_they_are_damaged(parquet):
    whole, refused = Path(parquet).read_bytes(), 0
    places = range(0, len(whole), 7)
    for at in places:
        Path(parquet).write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read_bytes(row_location(parquet, 1, "plain"))
        except OSError:
            refused += 1
    assert 0 < refused < len(places)


def test_file_urls_are_decoded_and_nothing_else_is(tmp_path):
    (tmp_path / "plate 1").mkdir()
    for name in ("ü%.png", "a%20b.png"):
        (tmp_path / "plate 1" / name).write_bytes(name.encode())
    for begin in ("file://", "file:", "file://localhost", "FILE://"):
        assert read_bytes(f"{begin}{tmp_path}/plate%201/%C3%BC%25.png") == "ü%.png".encode()
        assert join("/other", f"{begin}{tmp_path}/plate%201/a%2520b.png") == f"{tmp_path}/plate 1/a%20b.png"
    for literal in (f"{tmp_path}/plate 1/a%20b.png", f"local://{tmp_path}/plate 1/a%20b.png"):
        assert read_bytes(literal) == b"a%20b.png"
    assert join(f"file://{tmp_path}/plate%201", "a%20b.png") == f"{tmp_path}/plate 1/a%20b.png"
    with pytest.raises(FileNotFoundError):
        read_bytes("file:///nothing%00here")
    assert state("") is None
