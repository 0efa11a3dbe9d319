"""Write a figure to disk, with identical bytes for identical figures."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from analysis.figures.style import styled

METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save(figure: Figure, path: str | Path, formats: Sequence[str] = ("png", "svg")) -> tuple[Path, ...]:
    """Write the figure as PNG and SVG (or PDF) next to each other; `path` has no suffix. Returns the paths.

    Each file is written atomically, and the same figure always gives the same bytes.
    """
    path = Path(path)
    written = []
    for suffix in formats:
        target = path.with_name(f"{path.name}.{suffix}")
        with replacing(target) as temporary, styled():
            figure.savefig(temporary, format=suffix, metadata=METADATA[suffix])
        written.append(target)
    return tuple(written)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path next to `target`, which replaces it at the end, or is removed if writing it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
