"""Locations of images and tables: a location is text, and only this module opens it.

    /data/plate/B02_s1_w1.png          a path (or file:///data/...)
    s3://bucket/plate/B02_s1_w1.png    any URL that fsspec knows: https, gs, memory, simplecache::s3 ...
    /data/train-00.parquet#17.jp2      the value of column `jp2` in row 17 of a Parquet file

A location is opened where it is read, so worker processes share nothing and have one image in memory at a time.
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


def join(root: str, path: str) -> str:
    """A location below a root; an absolute path or a URL is taken as it is."""
    if path.startswith("/") or URL.match(path):
        return path.removeprefix("file://")
    return f"{root.removeprefix('file://').rstrip('/')}/{path}"


def row_location(file: str, row: int, column: str) -> str:
    """The location of one value of a Parquet file."""
    return f"{file}#{row}.{column}"


def file_of(location: str) -> str:
    """The file of a location: the location itself, unless it is one value of a Parquet file."""
    row = ROW.fullmatch(location) if "#" in location else None
    return row["file"] if row else location


def read_bytes(location: str) -> bytes:
    """All bytes at a location.

    Raises FileNotFoundError, or OSError with the reason: no such row or column, no permission, no package for this
    kind of URL. After other errors a URL is tried again, three times in all.
    """
    if row := ROW.fullmatch(location):
        return _parquet_value(row["file"], int(row["row"]), row["column"])
    if not is_url(location):
        return path_of(location).read_bytes()
    data: bytes = _retry(location, lambda fs, path: fs.cat_file(path))
    return data


def open_file(location: str) -> IO[bytes]:
    """Open a location for sequential or random reads; errors as in `read_bytes`."""
    if not is_url(location):
        return path_of(location).open("rb")
    opened: IO[bytes] = _retry(location, lambda fs, path: fs.open(path, "rb"))
    return opened


def is_file(location: str) -> bool:
    """Whether the location is a file."""
    if not is_url(location):
        return path_of(location).is_file()
    return bool(_retry(location, lambda fs, path: fs.isfile(path)))


def is_folder(location: str) -> bool:
    """Whether the location is a folder, or a prefix with something below it."""
    if not is_url(location):
        return path_of(location).is_dir()
    return bool(_retry(location, lambda fs, path: fs.isdir(path)))


def find(root: str) -> Iterator[str]:
    """The location of every file below a root; links are followed for files, not for folders."""
    if not is_url(root):
        for folder, folders, files in os.walk(path_of(root)):
            folders.sort()
            yield from (f"{folder}/{name}" for name in sorted(files))
        return
    protocol = URL.match(root)
    assert protocol is not None
    for name in sorted(_retry(root, lambda fs, path: fs.find(path))):
        yield name if URL.match(name) else protocol.group() + name.lstrip("/")


def state(location: str) -> tuple[int, int] | None:
    """Size and time of change (ns) of a local file; None if there is none, or if the location is remote.

    Asking a store about every image would cost as much as reading small ones, so remote images count as unchanged.
    """
    file = file_of(location)
    if is_url(file):
        return None
    try:
        status = path_of(file).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _retry(location: str, act: Callable[[Any, str], Result]) -> Result:
    """Call `act` with the file system and path of a URL; again after a pause if the error may be transient."""
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
    """Bytes of one value: of a binary column, or of a struct with a field `bytes`, as in published image datasets."""
    import pyarrow as pa

    file_state = state(file)
    try:
        parquet, begins = open_parquet(file, file_state)
        if column not in parquet.schema_arrow.names:
            raise OSError(f"{file} has no column {column!r}; it has {', '.join(parquet.schema_arrow.names)}")
        if not 0 <= row < begins[-1]:
            raise OSError(f"{file} has no row {row}; it has {begins[-1]}")
        group = bisect_right(begins, row) - 1
        value = _row_group(file, file_state, group, column)[row - begins[group]].as_py()
    except pa.ArrowException as error:
        raise OSError(f"{file} cannot be read as Parquet: {error}") from error
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise OSError(f"{file}: row {row} of column {column!r} holds no bytes")
    return data


@lru_cache(8)
def open_parquet(file: str, file_state: tuple[int, int] | None) -> tuple[ParquetFile, list[int]]:
    """An open Parquet file, and the row at which each of its groups begins, with the number of rows last.

    `file_state` is the file's `state`: a file that was replaced is opened again.
    """
    import pyarrow.parquet as pq

    source = open_file(file) if is_url(file) else path_of(file)
    parquet = pq.ParquetFile(source)
    rows = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return parquet, list(accumulate(rows, initial=0))


@lru_cache(2)
def _row_group(file: str, file_state: tuple[int, int] | None, group: int, column: str) -> pa.ChunkedArray:
    """One column of one row group: the least that can be read of a Parquet file, and all that is kept in memory."""
    parquet, _ = open_parquet(file, file_state)
    return parquet.read_row_group(group, columns=[column], use_threads=False).column(0)  # see shards.tables.parquet
