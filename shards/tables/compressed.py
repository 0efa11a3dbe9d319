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


def _zip_member(file: IO[bytes]) -> IO[bytes]:
    """The only file of an archive; those that macOS adds do not count."""
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if len(names) != 1:
        raise OSError(f"an archive of {len(names)} files, where one table is needed; save a workbook as CSV")
    return archive.open(names[0])


_OPENERS: Mapping[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast(IO[bytes], bz2.BZ2File(file)),
    b"\xfd7zXZ\0": lambda file: cast(IO[bytes], lzma.LZMAFile(file)),  # noqa: SIM115
    b"\x28\xb5\x2f\xfd": lambda file: cast(IO[bytes], io.BufferedReader(_Zstandard(file))),
}
_ZIP = b"PK\x03\x04"


def decompressed(file: IO[bytes]) -> tuple[IO[bytes], bool]:
    """The content of an open file from its beginning, and whether it was compressed (gzip, bzip2, xz, zstd, zip).

    Reading it raises one of DAMAGED if it is damaged. An archive (zip) must hold one file, and `file` must be seekable.
    """
    head = file.read(HEAD)
    if head.startswith(_ZIP):
        file.seek(0)
        return _zip_member(file), True
    whole = cast(IO[bytes], io.BufferedReader(_WithHead(head, file)))
    opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
    return (whole, False) if opener is None else (opener(whole), True)
