"""What is known of a cell that ran on this machine: how it ended, and the end of its process's log."""

from __future__ import annotations

import time
from pathlib import Path

from harness.launch.local.record import last_changes

LINES = 40


def read_local_log(output: Path, cell: str) -> str | None:
    """The end of the log of the process that ran a cell last, and its traceback if it failed; None if none did."""
    change = last_changes(output, {cell}).get(cell)
    if change is None:
        return None
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change.time))
    parts = [*_end_of(Path(change.log)), f"{cell}: {change.phase} on this machine since {at}"]
    if change.reason:
        parts[-1] = f"{cell}: {change.phase} on this machine at {at}: {change.reason}"
    return "\n".join([*parts, *([change.trace.rstrip()] if change.trace else [])])


def _end_of(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return ["\n".join([f"--- {path} (last {LINES} lines)", *lines[-LINES:]])] if lines else []
