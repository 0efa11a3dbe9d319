"""Read a training log (`train.jsonl`): all of it, or only the last row of a kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TAIL_BYTES = 4096


def last_row(path: Path, kind: str) -> dict[str, Any] | None:
    """Return the last complete row of a kind in the last `TAIL_BYTES` of a log; None if there is none."""
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


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log, except a line that is still being written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) >= 0]
