"""Where images and tables lie: a location is text, and this module alone opens it.

    /data/plate/B02_s1_w1.png          a path (or file:///data/...)
    s3://bucket/plate/B02_s1_w1.png    any URL that fsspec knows: https, gs, memory, simplecache::s3 ...
    /data/train-00.parquet#17.jp2      what column `jp2` of a Parquet file holds in row 17

A location is opened where it is read, so worker processes share nothing and hold one image at a time.
"""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
ROW = re.compile(r"(?P<file>.+\.parquet)#(?P<row>\d+)\.(?P<column>\w+)")
PAUSES = (0.5, 2.0)
"""Seconds between attempts at a URL that fails."""

Result = TypeVar("Result")


def is_url(location: str) -> bool:
    """Whether a location is remote, that is, needs fsspec."""
    return URL.match(location) is not None and not location.startswith("file://")


def path_of(location: str) -> Path:
    """The path of a local location."""
    return Path(location.removeprefix("file://"))


def join(root: str, place: str) -> str:
    """A location below a root; a place that is absolute or a URL stands for itself."""
    if place.startswith("/") or URL.match(place):
        return place.removeprefix("file://")
    return f"{root.removeprefix('file://').rstrip('/')}/{place}"


def row_location(file: str, row: int, column: str) -> str:
    """The location of one value of a Parquet file."""
    return f"{file}#{row}.{column}"


def file_of(location: str) -> str:
    """The file that a location lies in: itself, unless it is one value of a Parquet file."""
    row = ROW.fullmatch(location) if "#" in location else None
    return row["file"] if row else location


def read_bytes(location: str) -> bytes:
    """All bytes at a location.

    Raises FileNotFoundError, or OSError with what is wrong: no such row or column, no permission, no package for this
    kind of URL. A URL that fails otherwise is tried three times.
    """
    if row := ROW.fullmatch(location):
        return _parquet_value(row["file"], int(row["row"]), row["column"])
    if not is_url(location):
        return path_of(location).read_bytes()
    data: bytes = _insist(location, lambda fs, path: fs.cat_file(path))
    return data


def open_file(location: str) -> IO[bytes]:
    """Open a location to read it in sequence or at random; errors as in `read_bytes`."""
    if not is_url(location):
        return path_of(location).open("rb")
    opened: IO[bytes] = _insist(location, lambda fs, path: fs.open(path, "rb"))
    return opened


def is_file(location: str) -> bool:
    """Whether a file is there."""
    if not is_url(location):
        return path_of(location).is_file()
    return bool(_insist(location, lambda fs, path: fs.isfile(path)))


def is_folder(location: str) -> bool:
    """Whether a folder, or a prefix with something below it, is there."""
    if not is_url(location):
        return path_of(location).is_dir()
    return bool(_insist(location, lambda fs, path: fs.isdir(path)))


def find(root: str) -> Iterator[str]:
    """Every file below a root, by location; links are followed for files, not for folders."""
    if not is_url(root):
        for folder, folders, files in os.walk(path_of(root)):
            folders.sort()
            yield from (f"{folder}/{name}" for name in sorted(files))
        return
    protocol = URL.match(root)
    assert protocol is not None
    for name in sorted(_insist(root, lambda fs, path: fs.find(path))):
        yield name if URL.match(name) else protocol.group() + name.lstrip("/")


def state(location: str) -> tuple[int, int] | None:
    """Size and time of change (ns) of a local file; None if there is none, or if the location is remote.

    Asking a store about every image again would cost as much as reading small ones: remote images count as unchanging.
    """
    file = file_of(location)
    if is_url(file):
        return None
    try:
        found = path_of(file).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _insist(location: str, act: Callable[[Any, str], Result]) -> Result:
    """Act on the file system and path of a URL, again after a pause if it fails for a reason that may pass."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise OSError(f"{location} cannot be opened: {error}") from error
    for pause in (*PAUSES, None):
        try:
            return act(fs, path)
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except Exception as error:  # each file system raises errors of its own
            if pause is None:
                raise OSError(f"{location} cannot be read: {error or type(error).__name__}") from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def _parquet_value(file: str, row: int, column: str) -> bytes:
    """Bytes in one cell: a binary column, or a structure that has `bytes`, as image datasets are published."""
    import pyarrow as pa

    unchanged = state(file)
    try:
        parquet, begins = open_parquet(file, unchanged)
        if column not in parquet.schema_arrow.names:
            raise OSError(f"{file} has no column {column!r}; it has {', '.join(parquet.schema_arrow.names)}")
        if not 0 <= row < begins[-1]:
            raise OSError(f"{file} has no row {row}; it has {begins[-1]}")
        group = bisect_right(begins, row) - 1
        value = _row_group(file, unchanged, group, column)[row - begins[group]].as_py()
    except pa.ArrowException as error:
        raise OSError(f"{file} cannot be read as Parquet: {error}") from error
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise OSError(f"{file}: row {row} of column {column!r} holds no bytes")
    return data


@lru_cache(8)
def open_parquet(file: str, unchanged: tuple[int, int] | None) -> tuple[ParquetFile, list[int]]:
    """An open Parquet file, and the row at which each of its groups begins, with the number of rows last.

    `unchanged` is the file's `state`: a file that was replaced is opened anew.
    """
    import pyarrow.parquet as pq

    source = open_file(file) if is_url(file) else path_of(file)
    parquet = pq.ParquetFile(source)
    rows = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return parquet, list(accumulate(rows, initial=0))


@lru_cache(2)
def _row_group(file: str, unchanged: tuple[int, int] | None, group: int, column: str) -> pa.ChunkedArray:
    """One column of one row group: what reading any of its rows costs, and all that is held in memory."""
    parquet, _ = open_parquet(file, unchanged)
    return parquet.read_row_group(group, columns=[column], use_threads=False).column(0)  # see shards.tables.parquet
