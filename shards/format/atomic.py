"""Write files atomically: they appear complete or not at all."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write a file under a temporary name, flush it to disk, then rename it into place."""
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files that dead processes of this machine left in a folder."""
    for path in folder.glob(f".*.{platform.node()}.*.tmp"):
        if not is_alive(path.name.split(".")[-2]):
            path.unlink(missing_ok=True)


def is_alive(pid: str) -> bool:
    """Whether a process of this machine still runs."""
    try:
        state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie writes nothing
