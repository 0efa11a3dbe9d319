"""The end of a growing log, read without reading all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TAIL_BYTES = 4096


def last_row(path: Path, kind: str) -> dict[str, Any] | None:
    """The last whole row of a kind near the end of a log, read without reading all of it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("kind") == kind:
            return row
    return None
