"""What a cell's folder says of work that stands still: `status` reads it, and so does a job before it is requeued."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from harness.storage.atomic import write_json
from harness.storage.json_files import is_number, read_json

STALL = "stall.json"
STACKS = "stalls"  # folder of each rank's stacks
REQUEUED = "requeued.json"  # in that folder
MOST_REQUEUES = 2  # of one job without progress between its stalls


@dataclass(frozen=True)
class Stall:
    """Since when a step stands still, and whom it waits for."""

    text: str
    since: float  # seconds since the epoch
    is_ended: bool = False  # a rank has ended the job for it

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
    return Stall(value["text"], float(value["since"]), value.get("ended") is True)


def write_stall(folder: Path, stall: Stall, step: int) -> None:
    """Say in a cell's folder that a step stands still."""
    write_json(folder / STALL, {"text": stall.text, "since": stall.since, "step": step, "ended": stall.is_ended})


def may_requeue(folder: Path, job: str, step: int) -> bool:
    """Whether a job that stands still at a step may be requeued, which is counted; not if it hangs there every time."""
    path = folder / STACKS / REQUEUED
    try:
        value = read_json(path)
    except (OSError, ValueError):
        value = None
    last, times = -1, 0
    if isinstance(value, dict) and value.get("job") == job:
        last, times = (value[name] if is_number(value.get(name)) else 0 for name in ("step", "times"))
    times = 0 if step > last else times
    if times >= MOST_REQUEUES:
        return False
    write_json(path, {"job": job, "step": max(step, last), "times": times + 1})
    return True
