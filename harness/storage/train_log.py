"""Read a training log (`train.jsonl`): all of it, only the last row of a kind, or how much of it is damaged."""

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
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return -1


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log, except a line that is still being written."""
    return [json.loads(line) for line in _lines(path) if _step_of(line) >= 0]


def damaged_lines(path: Path) -> int:
    """How many complete lines of a log are not rows."""
    return sum(line.endswith("\n") and _step_of(line) < 0 for line in _lines(path))


def _lines(path: Path) -> list[str]:
    """The lines with their ends; none without a file. Bytes that are not UTF-8 damage one line and leave the others."""
    if not path.exists():
        return []
    return path.read_bytes().decode("utf-8", errors="replace").splitlines(keepends=True)
