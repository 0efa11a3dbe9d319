"""Open a table whatever it is compressed with: its first bytes say it, not its name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import IO, cast

HEAD = 6
"""Bytes that tell a kind of compression."""
BLOCK = 1 << 16
MAX_MEMORY = 1 << 28
"""Bytes that decoding xz may take; `xz -9` needs a quarter of it."""
MAX_LIST = 1 << 20
"""Bytes of the list of files of an archive."""
ZIP_END = (1 << 16) + 22
"""The end of an archive is at most this long."""
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError)
"""What reading a damaged or unsupported file may raise; zstd's own error is turned into an OSError."""


class _WithHead(io.RawIOBase):
    """The bytes that were read of a file already, and then the rest of it: a web server's answer cannot go back."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head = head
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._file.read(len(buffer))
        self._head = self._head[len(data) :] if self._head else b""
        buffer[: len(data)] = data
        return len(data)


class _Zstandard(io.RawIOBase):
    """The text of a file of zstd frames; OSError for a damaged one."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            return self._reader.readinto(buffer)
        except self._error as error:
            raise OSError(f"damaged zstd data: {error}") from error


class _Xz(io.RawIOBase):
    """The text of a file of xz streams, decoded with at most MAX_MEMORY bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        text, data = b"", b""
        while not text:
            if self._decoder.eof:
                data = (self._decoder.unused_data or self._file.read(BLOCK)).lstrip(b"\0")
                if not data:
                    return 0
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_MEMORY)
            elif self._decoder.needs_input and not (data := self._file.read(BLOCK)):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            text, data = self._decoder.decompress(data, len(buffer)), b""
        buffer[: len(text)] = text
        return len(text)


def _zip_member(file: IO[bytes]) -> IO[bytes]:
    """The only file of an archive; those that macOS adds do not count.

    The list of its files is read completely, so its size, which is stated at the end, is checked before that.
    """
    try:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - ZIP_END))
    except ValueError as error:
        raise OSError(f"an archive cannot be read from here: {error}") from error
    end = file.read(ZIP_END)
    at = end.rfind(b"PK\x05\x06")
    if int.from_bytes(end[at + 12 : at + 16], "little") > MAX_LIST or b"PK\x06\x07" in end[max(0, at - 20) : at]:
        raise OSError("an archive of too many files, where one table is needed")
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if len(names) != 1:
        raise OSError(f"an archive of {len(names)} files, where one table is needed; save a workbook as CSV")
    return archive.open(names[0])


_OPENERS: Mapping[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast(IO[bytes], bz2.BZ2File(file)),
    b"\xfd7zXZ\0": lambda file: cast(IO[bytes], io.BufferedReader(_Xz(file))),
    b"\x28\xb5\x2f\xfd": lambda file: cast(IO[bytes], io.BufferedReader(_Zstandard(file))),
}
_ZIP = b"PK\x03\x04"


def decompressed(file: IO[bytes]) -> tuple[IO[bytes], bool]:
    """The content of an open file from its beginning, and whether it was compressed (gzip, bzip2, xz, zstd, zip).

    Reading it raises one of DAMAGED if it is damaged. An archive (zip) must hold one file, and `file` must be seekable.
    """
    head = file.read(HEAD)
    if head.startswith(_ZIP):
        return _zip_member(file), True
    whole = cast(IO[bytes], io.BufferedReader(_WithHead(head, file)))
    opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
    return (whole, False) if opener is None else (opener(whole), True)
