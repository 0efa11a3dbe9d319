"""Locations of images and tables: a location is text, and only this module opens it.

    /data/plate/B02_s1_w1.png          a path (or file:///data/..., with %20 for a blank)
    s3://bucket/plate/B02_s1_w1.png    any URL that fsspec knows: https, gs, memory, simplecache::s3 ...
    /data/train-00.parquet#17.jp2      the value of column `jp2` in row 17 of a Parquet file
    several files, by `planes_location` one image, the maximum of the planes that these files hold

A location is opened where it is read, so worker processes share nothing and have one image in memory at a time. What is
read is bounded: a location may name a device, a stream without an end, or a file of any size.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from shards.images.folder_walk import walk
from shards.images.headers import MAX_FILE_BYTES
from shards.images.regular_files import FileState, FileTooLargeError, open_regular, read_regular, state_of

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec import AbstractFileSystem
    from pyarrow.parquet import ParquetFile

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
LOCAL = re.compile(r"local://|file:(//localhost(?=/)|//|(?=/))", re.IGNORECASE)
"""How the URL of a local file begins: `file:///data`, `file://localhost/data`, `file:/data` (as Java writes it)."""
ROW = re.compile(r"(?P<file>.+\.parquet)#(?P<row>\d{1,18})\.(?P<column>\w+)")
PLANE = "\0"
"""Before each file of a location of several; no file's name has it."""
PAUSES = (0.5, 2.0)
"""Seconds between attempts at a URL that fails."""
BLOCK_BYTES = 1 << 20
"""Bytes of a web server's answer that are requested at a time."""
MAX_GROUP_BYTES = 1 << 31
"""Of one column of a row group of a Parquet file, decoded."""

Result = TypeVar("Result")


def is_url(location: str) -> bool:
    """Whether a location is remote, that is, needs fsspec."""
    return URL.match(location) is not None and not LOCAL.match(location)


def path_of(location: str) -> Path:
    """The path of a local location; `%20` and the like are decoded in a `file:` URL, and nowhere else."""
    local = LOCAL.match(location)
    if local is None:
        return Path(location)
    path = location[local.end() :]
    decoded = path if local.group().startswith("local") else unquote(path)
    return Path(path if "\0" in decoded else decoded)


def join(root: str, path: str) -> str:
    """A location below a root; an absolute path or a URL is taken as it is."""
    if path.startswith("/") or URL.match(path) or LOCAL.match(path):
        return path if is_url(path) else str(path_of(path))
    return f"{root if is_url(root) else path_of(root)}".rstrip("/") + f"/{path}"


def row_location(file: str, row: int, column: str) -> str:
    """The location of one value of a Parquet file."""
    return f"{file}#{row}.{column}"


def planes_location(files: Iterable[str]) -> str:
    """The location of the image that is the maximum of the planes in these files, at least one."""
    return "".join(PLANE + file for file in files)


def plane_files(location: str) -> tuple[str, ...]:
    """The files of a location that `planes_location` made; none for any other."""
    return tuple(location.split(PLANE)[1:]) if location.startswith(PLANE) else ()


def files_of(location: str) -> tuple[str, ...]:
    """All that a location names, one file or several."""
    return plane_files(location) or (location,)


def file_of(location: str) -> str:
    """The file of a location: the location itself, unless it is one value of a Parquet file."""
    row = ROW.fullmatch(location) if "#" in location else None
    return row["file"] if row else location


def read_bytes(location: str, limit: int = MAX_FILE_BYTES) -> bytes:
    """All bytes at a location, at most `limit`.

    Raises FileNotFoundError, or OSError with the reason: no such row or column, no permission, not a regular file, too
    large, no package for this kind of URL. After other errors a URL is tried again, three times in all.
    """
    if row := ROW.fullmatch(location):
        return _parquet_value(row["file"], int(row["row"]), row["column"])
    if not is_url(location):
        return read_regular(path_of(location), limit)
    return _retry(location, lambda fs, path: _read_url(fs, path, limit))


def _read_url(fs: AbstractFileSystem, path: str, limit: int) -> bytes:
    """All bytes at a path of a file system of fsspec; one request, as a web server may not know or state a size."""
    if path.startswith(("http://", "https://")):
        data = bytearray()
        with fs.open(path, "rb", block_size=0, size=1) as file:  # 0: as a stream; a size: without asking for it
            while len(data) <= limit and (block := file.read(BLOCK_BYTES)):
                data += block
    else:
        data = fs.cat_file(path, start=0, end=limit + 1)
    if len(data) > limit:
        raise FileTooLargeError(f"more than {limit} bytes")
    return bytes(data)


def open_file(location: str) -> IO[bytes]:
    """Open a location for sequential or random reads; errors as in `read_bytes`."""
    if not is_url(location):
        return open_regular(path_of(location))
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


def find(root: str, left_out: list[str] | None = None) -> Iterator[str]:
    """The location of every file below a root; links are followed (`walk`), and `left_out` receives what is not."""
    if not is_url(root):
        yield from walk(str(path_of(root)), [] if left_out is None else left_out)
        return
    protocol = URL.match(root)
    assert protocol is not None
    for name in sorted(_retry(root, lambda fs, path: fs.find(path))):
        yield name if URL.match(name) else protocol.group() + name.lstrip("/")


def state(location: str) -> FileState | None:
    """The state of a local file; None if there is none, or if the location is remote or blank.

    Asking a store about every image would cost as much as reading small ones, so remote images count as unchanged.
    """
    file = file_of(location)
    return None if not file or is_url(file) else state_of(path_of(file))


def _retry(location: str, act: Callable[[Any, str], Result]) -> Result:
    """Call `act` with the file system and path of a URL; again after a pause if the error may be transient."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(location)
        if _is_local(fs):
            raise ValueError("give a local file by its path")
    except Exception as error:  # each file system raises errors of its own
        raise OSError(f"{location} cannot be opened: {error or type(error).__name__}") from error
    for pause in (*PAUSES, None):
        try:
            return act(fs, path)
        except (FileNotFoundError, PermissionError, IsADirectoryError, FileTooLargeError):
            raise
        except Exception as error:
            if pause is None or isinstance(error, TimeoutError):  # after minutes, which is not a passing fault
                raise OSError(f"{location} cannot be read: {error or type(error).__name__}") from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def _is_local(fs: AbstractFileSystem) -> bool:
    """Whether a file system is, or caches, the files of this machine: these are opened by `open_regular` only."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(fs, LocalFileSystem) or isinstance(getattr(fs, "fs", None), LocalFileSystem)


def _parquet_value(file: str, row: int, column: str) -> bytes:
    """Bytes of one value: of a binary column, or of a struct with a field `bytes`, as in published image datasets."""
    file_state = state(file)
    try:
        parquet, begins = open_parquet(file, file_state)
        if column not in parquet.schema_arrow.names:
            raise OSError(f"{file} has no column {column!r}; it has {', '.join(parquet.schema_arrow.names)}")
        if not 0 <= row < begins[-1]:
            raise OSError(f"{file} has no row {row}; it has {begins[-1]}")
        group = bisect_right(begins, row) - 1
        value = _row_group(file, file_state, group, column)[row - begins[group]].as_py()
    except OSError:
        raise
    except Exception as error:  # a damaged file may fail anywhere in Arrow
        raise OSError(f"{file} cannot be read as Parquet: {error or type(error).__name__}") from error
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise OSError(f"{file}: row {row} of column {column!r} holds no bytes")
    return data


@lru_cache(8)
def open_parquet(file: str, file_state: FileState | None) -> tuple[ParquetFile, list[int]]:
    """An open Parquet file, and the row at which each of its groups begins, with the number of rows last.

    `file_state` is the file's `state`: a file that was replaced is opened again. Raises OSError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(open_file(file))
    except pa.ArrowException as error:
        raise OSError(f"{file} cannot be read as Parquet: {error}") from error
    rows = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return parquet, list(accumulate(rows, initial=0))


@lru_cache(2)
def _row_group(file: str, file_state: FileState | None, group: int, column: str) -> pa.ChunkedArray:
    """One column of one row group: the least that can be read of a Parquet file, and all that is kept in memory."""
    import pyarrow as pa

    parquet, _ = open_parquet(file, file_state)
    return pa.chunked_array(list(read_column(file, parquet, group, column)))


def read_column(file: str, parquet: ParquetFile, group: int, column: str) -> Iterator[pa.Array]:
    """One column of one row group, part by part; OSError once it takes more than MAX_GROUP_BYTES.

    A part has no more rows than fit into the limit if each were as large as the file says that all of them are: a
    dictionary may repeat one large value in every row.
    """
    metadata = parquet.metadata.row_group(group)
    chunks = [metadata.column(number) for number in range(metadata.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
    left = MAX_GROUP_BYTES
    rows = max(1, min(metadata.num_rows, left // max(1, size)))
    if 0 <= size <= left:
        # without Arrow's own threads: see shards.tables.parquet
        for part in parquet.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False):
            left -= part.nbytes
            if left < 0:
                break
            yield part.column(0)
    if left < 0 or not 0 <= size <= MAX_GROUP_BYTES:
        raise FileTooLargeError(
            f"{file}: column {column!r} of row group {group} takes more than {MAX_GROUP_BYTES} bytes: "
            "write smaller row groups"
        )
