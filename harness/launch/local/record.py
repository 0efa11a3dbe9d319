"""What sweeps on this machine did with each cell: `jobs/local.jsonl`, a line for each change.

The sweep that holds the output's lock writes it. If nobody holds that, what was running or queued has stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from harness.storage.appended import append_line
from harness.storage.json_files import is_number, parse_json

Phase = Literal["queued", "running", "done", "failed", "cancelled"]
FILE = "local.jsonl"


@dataclass(frozen=True)
class Change:
    """What happened to cells.

    Attributes:
        time: in seconds since the epoch.
        log: of the process that ran the cell; empty before it ran.
        reason: the error on one line.
        trace: its traceback.
    """

    phase: Phase
    cells: tuple[str, ...]
    time: float
    log: str = ""
    reason: str = ""
    trace: str = ""


class Record:
    """The record of an output, which one sweep at a time writes."""

    def __init__(self, output: Path) -> None:
        self._path = record_file(output)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def add(
        self, phase: Phase, cells: Sequence[str], log: Path | None = None, reason: str = "", trace: str = ""
    ) -> None:
        """Record what happened to cells now."""
        change = Change(phase, tuple(cells), time.time(), str(log or ""), reason, trace)
        append_line(self._path, json.dumps(asdict(change)).encode())


def record_file(output: Path) -> Path:
    """The path of an output's record."""
    return output / "jobs" / FILE


def last_changes(output: Path, cells: Collection[str] | None = None) -> dict[str, Change]:
    """What happened last to each of these cells, or to all, by id; lines that are none are left out."""
    try:
        lines = record_file(output).read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    changes = [change for line in lines if line and (change := _change(line)) is not None]
    return {cell: change for change in changes for cell in change.cells if cells is None or cell in cells}


def _change(line: bytes) -> Change | None:
    try:
        value = parse_json(line)
        change = Change(**{**value, "cells": tuple(value["cells"])})
    except (ValueError, TypeError, KeyError):
        return None
    texts = (*change.cells, change.log, change.reason, change.trace)
    is_whole = change.phase in get_args(Phase) and is_number(change.time) and all(isinstance(t, str) for t in texts)
    return change if is_whole else None
