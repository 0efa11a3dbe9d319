"""A copy of the ledger's rows in one file, so that commands read only the rows that have changed.

`<output>/ledger-cache.json` is no record of anything. It may be deleted at any time, and one that is damaged, or of
another version, is not used. A row in it counts only while its own file is the same (`kept/remembered.py`). Who may not
write the output does without a new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from harness.storage import ledger
from harness.storage.atomic import write_atomic
from harness.storage.json_files import MOST_BYTES
from harness.storage.kept.remembered import Identity, Remembered
from harness.storage.ledger import LedgerRow

FILE = "ledger-cache.json"
VERSION = 1
FEWEST = 20  # rows that are worth writing the file for
Entries = Mapping[str, tuple[Identity, LedgerRow]]


@contextmanager
def kept_rows(output: Path, *, write: bool = True) -> Iterator[None]:
    """Read the rows of a study by way of the cache until the end of this context, then write what is new.

    Args:
        output: of the study.
        write: whether to write; a run that has nothing to do changes no file.
    """
    began, rows = time.monotonic_ns(), Remembered[LedgerRow]()
    rows.entries = read(output)
    with ledger.kept(rows):
        yield
    if write and len(rows.new) >= FEWEST:
        with suppress(OSError, ValueError):  # no right to write, or no space: it is only a cache
            write_atomic(output / FILE, lambda file: _write(file, rows.entries, began))


def read(output: Path) -> dict[str, tuple[Identity, LedgerRow]]:
    """The rows in the cache, by the paths of their files; none if it cannot be used."""
    try:
        if (output / FILE).stat().st_size > MOST_BYTES:
            return {}
        head, _, body = (output / FILE).read_bytes().partition(b"\n")
        if head != _head(body):
            return {}
        return {
            f"{output}/ledger/{cell}/{stage}.json": (Identity(*of_file), LedgerRow(cell, stage, fingerprint, values))
            for of_file, cell, stage, fingerprint, values in json.loads(body)
        }
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _write(file: IO[bytes], entries: Entries, began: int) -> None:
    """Write the rows of files that were settled when they were read, also if this machine's clock is not the disk's.

    Args:
        file: which was created just now, by the clock of the file system.
        began: when reading began, by `time.monotonic_ns`.
    """
    now_there = os.fstat(file.fileno()).st_mtime_ns - (time.monotonic_ns() - began)
    rows = [
        [of_file, row.cell, row.stage, row.fingerprint, row.values]
        for of_file, row in entries.values()
        if of_file.is_settled(now_there)
    ]
    body = json.dumps(rows, separators=(",", ":")).encode()
    file.write(_head(body) + b"\n" + body)


def _head(body: bytes) -> bytes:
    return f"ledger cache {VERSION} {hashlib.sha256(body).hexdigest()}".encode()
