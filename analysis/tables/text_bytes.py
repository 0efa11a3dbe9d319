"""The text of a table as UTF-8 bytes, whatever it is compressed with: told by the content, never by the name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeAlias

from analysis.tables.errors import TableError

MAX_BYTES = 1 << 33
"""Of a table's text, decompressed."""
MAX_LAYERS = 3
"""A file that a server compresses once more on its way has two."""
ZSTD_PART = 1 << 14
"""Bytes that are decompressed at a time: 16 KiB can become half a GiB."""
PARQUET = b"PAR1"
NOT_TABLES = {
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV",
    b"\x89HDF": "an HDF5 file: save it as CSV or Parquet",
    b"ARROW1": "an Arrow file: save it as Parquet",
    b"FEA1": "a Feather file: save it as Parquet",
    b"%PDF": "a PDF",
}
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


def is_parquet(path: Path) -> bool:
    """Whether a path is a Parquet file, or a folder of them.

    Raises:
        TableError: it is not there, or cannot be read.
    """
    if path.is_dir():
        return True
    with _opened(path) as file:
        return not _is_stream(path) and file.read(len(PARQUET)) == PARQUET


def text_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The text of a file as UTF-8 without a byte order mark; .gz, .bz2, .xz, .zst and .zip are decompressed.

    Raises:
        TableError: the file cannot be read, is cut short, is longer than `limit`, or is no UTF-8 (or UTF-16) text.
    """
    with _opened(path) as file:
        try:
            data = _read(file, limit)
        except TableError as error:
            raise TableError(f"{path}: {error}") from None
    for _ in range(MAX_LAYERS):
        decompress = next((open_ for magic, open_ in OPENERS.items() if data.startswith(magic)), None)
        if decompress is None:
            break
        data = _decompressed(data, decompress, limit, path)
    return _as_utf8(data, path)


def _opened(path: Path) -> IO[bytes]:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise TableError(f"{path}: is a folder, not a table")
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise TableError(f"{path}: is a device, not a file")
        return path.open("rb")
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror or error}") from error


def _is_stream(path: Path) -> bool:
    """Whether reading takes something away, as from a pipe that a shell hands over."""
    return not stat.S_ISREG(path.stat().st_mode)


def _read(file: IO[bytes] | io.BufferedIOBase, limit: int) -> bytes:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise TableError(f"its text has more than {limit} bytes; save a table of this size as Parquet")
    return data


def _decompressed(data: bytes, open_: Opener, limit: int, path: Path) -> bytes:
    try:
        with open_(data, limit) as file:
            return _read(file, limit)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None
    except EOFError:
        raise TableError(f"{path}: is cut short: its compressed data end too early") from None
    except (OSError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        raise TableError(f"{path}: its compressed data are damaged: {error}") from error


def _open_zip(data: bytes, _: int) -> IO[bytes]:
    """The one table in an archive, without folders, hidden files and what a Mac adds."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    names = [name for name in names if not name.endswith("/") and not name.rpartition("/")[2].startswith(".")]
    if "[Content_Types].xml" in names:
        raise TableError("is an Excel workbook: save it as CSV")
    if len(names) != 1:
        raise TableError(f"holds {len(names)} files ({', '.join(names[:3])}); an archive must hold one table")
    return archive.open(names[0])


def _open_zstd(data: bytes, limit: int) -> IO[bytes]:
    """All frames, decompressed here: a stream of zstandard does not notice that the last one has no end."""
    import zstandard

    text, start = io.BytesIO(), 0
    while start < len(data):
        frame = zstandard.ZstdDecompressor().decompressobj()
        while not frame.eof and start < len(data) and text.tell() <= limit:
            part = data[start : start + ZSTD_PART]
            text.write(frame.decompress(part))
            start += len(part) - len(frame.unused_data)
        if text.tell() > limit:
            break
        if not frame.eof:
            raise EOFError
    text.seek(0)
    return text


Opener: TypeAlias = Callable[[bytes, int], IO[bytes] | io.BufferedIOBase]

OPENERS: dict[bytes, Opener] = {
    b"\x1f\x8b": lambda data, _: gzip.GzipFile(fileobj=io.BytesIO(data)),
    b"BZh": lambda data, _: bz2.BZ2File(io.BytesIO(data)),
    b"\xfd7zXZ\x00": lambda data, _: lzma.LZMAFile(io.BytesIO(data)),  # noqa: SIM115
    b"\x28\xb5\x2f\xfd": _open_zstd,
    b"\x50\x2a\x4d\x18": _open_zstd,  # a frame to skip, with which pzstd begins
    b"PK\x03\x04": _open_zip,
}
"""How to open compressed data, by their first bytes; the number is the most bytes that will be read."""


def _as_utf8(data: bytes, path: Path) -> bytes:
    if kind := next((kind for magic, kind in NOT_TABLES.items() if data.startswith(magic)), None):
        raise TableError(f"{path}: is {kind}")
    if data.startswith(PARQUET):
        raise TableError(
            f"{path}: holds a Parquet file, compressed once more or in a pipe: give the Parquet file itself"
        )
    if data.isascii() and b"\0" not in data:
        return data
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TableError(f"{path}, line {line}: is not UTF-8 text: save the table as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise TableError(f"{path}, line {line}: holds a zero byte: this is not a table in text or Parquet")
    return data if encoding == "utf-8" else text.encode()
