"""Write and verify checksums of files, so that damage is detected before a checkpoint is loaded.

A JSON file in the folder holds the size and checksum of each file. Checksums detect accidents: partial writes, flipped
bits, lost files. They are not a signature: anyone who can write the folder can also write the checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.storage.atomic import write_json

Checksums = Mapping[str, Sequence[Any]]  # by file name: bytes and SHA-256
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class Damaged(ValueError):  # noqa: N818  (names the state of the file)
    """A checksummed file that is missing, incomplete or changed; the message names the file and the problem."""


def checksum(path: Path) -> list[Any]:
    """Return a file's size in bytes and its SHA-256, as an entry of `Checksums`."""
    with path.open("rb") as file:
        return [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def write_checksummed(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as JSON together with its own checksum, atomically."""
    write_json(path, {"value": value, "sha256": _digest(value)})


def read_checksummed(path: Path) -> dict[str, Any]:
    """Read and verify a file of `write_checksummed`.

    Raises:
        Damaged: the file is missing, is not JSON with a checksum, or does not match its checksum.
        OSError: it is there, but the system cannot read it now (permissions, a disk or network error).
    """
    try:
        text = path.read_bytes()
    except MISSING as error:
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        content = json.loads(text)
        value, digest = content["value"], content["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path.name} is damaged: not JSON with a checksum ({type(error).__name__})") from error
    if not isinstance(value, dict) or _digest(value) != digest:
        raise Damaged(f"{path.name} is damaged: its checksum does not match")
    return value


def check(folder: Path, files: Checksums, names: Iterable[str]) -> None:
    """Compare the files `names` of a folder with their recorded checksums `files`.

    Raises:
        Damaged: a file is missing, or has another size or checksum; the first one is reported.
        OSError: a file is there, but the system cannot read it now.
    """
    for name in names:
        size, digest = files[name]
        try:
            actual_size, actual_digest = checksum(folder / name)
        except MISSING as error:
            raise Damaged(f"{name} cannot be read: {error.strerror}") from error
        if actual_size != size:
            raise Damaged(f"{name} has {actual_size} bytes instead of {size}")
        if actual_digest != digest:
            raise Damaged(f"{name} is damaged: its checksum does not match")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename or a new file in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
