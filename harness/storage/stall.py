"""What a cell's folder says of a step that stands still; a rank writes it, `status` reads it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from harness.storage.json_files import is_number, read_json

STALL = "stall.json"
STACKS = "stalls"  # folder of each rank's stacks


@dataclass(frozen=True)
class Stall:
    """Since when a step stands still, and whom it waits for."""

    text: str
    since: float  # seconds since the epoch

    @property
    def in_words(self) -> str:
        seconds = max(time.time() - self.since, 0.0)
        return f"stalled for {int(seconds // 60)}:{int(seconds % 60):02d}: {self.text}"


def read_stall(folder: Path) -> Stall | None:
    """The stall that a cell's folder tells of; None if none does, or if it cannot be read."""
    try:
        value = read_json(folder / STALL)
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str) or not is_number(value.get("since")):
        return None
    return Stall(value["text"], float(value["since"]))
