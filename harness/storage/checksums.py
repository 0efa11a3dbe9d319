"""Sealed folders: files, and one JSON with the checksum of each, so that damage is found before anything is read.

The checksums guard against accidents: torn writes, flipped bits, lost files. They are no signature: whoever can write
the folder can write the seal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.storage.atomic import write_json

Checksums = Mapping[str, list[Any]]  # by file name: bytes and SHA-256


class Damaged(ValueError):  # noqa: N818  (it says what the file is)
    """A sealed file that is missing, torn or changed; the text names it and says how."""


def checksum(path: Path) -> list[Any]:
    """The file's length in bytes and its SHA-256, as they stand in a seal."""
    with path.open("rb") as file:
        return [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def write_checksummed(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as JSON together with its own checksum, whole on disk or not at all."""
    write_json(path, {"value": value, "sha256": _digest(value)})


def read_checksummed(path: Path) -> dict[str, Any]:
    """What `write_checksummed` wrote.

    Raises:
        Damaged: the file is missing, is no sealed JSON, or is not what was written.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        found = json.loads(text)
        value, wanted = found["value"], found["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path.name} is not what was written: {type(error).__name__} in it") from error
    if not isinstance(value, dict) or _digest(value) != wanted:
        raise Damaged(f"{path.name} is not what was written: its checksum differs")
    return value


def check(folder: Path, files: Checksums, names: Iterable[str]) -> None:
    """Compare the files `names` of a folder with its seal's `files`.

    Raises:
        Damaged: the first file that is missing, of another length, or of another checksum.
    """
    for name in names:
        length, digest = files[name]
        try:
            found = checksum(folder / name)
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error.strerror}") from error
        if found[0] != length:
            raise Damaged(f"{name} has {found[0]} bytes instead of {length}")
        if found[1] != digest:
            raise Damaged(f"{name} is not what was written: its checksum differs")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename or a new file in it outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
