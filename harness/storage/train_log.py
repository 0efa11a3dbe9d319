"""Read a training log (`train.jsonl`): all of it, its validations, only the last row of a kind, or the last step.

A line that is not a row of a log (torn by a crash, or with values that no run writes) is left out; `scan_log` names it.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.storage.json_files import is_number, parse_json

TAIL_BYTES = 4096
MOST = 2**53
NUMBERS = {
    "loss", "gradient_norm", "learning_rate", "crops_per_second", "step_seconds", "seconds_left", "data_wait",
    "peak_memory_gb", "mfu", "crops", "validation_loss", "mean_predictor_loss",
}  # fmt: skip
MEASURED = ("train", "validation")  # the kinds of rows that hold these numbers


def scan_log(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of a log, and of each line that is not one its place and what is wrong, `train.jsonl:7: ...`.

    A last line without an end, which is still being written, is left out without a word.

    Raises:
        OSError: the file exists but cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], []
    *lines, last = content.split(b"\n")
    rows, problems = [], []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(line))
        except ValueError as error:
            problems.append(f"{path}:{number}: not a row of a log: {error}")
    if last:
        with suppress(ValueError):
            rows.append(_row(last))
    return rows, problems


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log; lines that are not rows are left out."""
    return scan_log(path)[0]


def validations_and_last(path: Path) -> list[dict[str, Any]]:
    """Return the validations of a log and its last row of training with its progress; other lines are not parsed.

    Raises:
        OSError: the file exists but cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    wanted = [line for line in lines if b'"validation"' in line]
    rows = [row for line in wanted if (row := _row_or_none(line)) is not None]
    training = (_row_or_none(line) for line in reversed(lines) if b'"train"' in line)
    of_training = (row for row in training if row is not None and row.get("kind") == "train" and row.get("progress"))
    return [*rows, *itertools.islice(of_training, 1)]


def last_row(path: Path, kind: str) -> dict[str, Any] | None:
    """Return the last complete row of a kind in the last `TAIL_BYTES` of a log; None if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    rows = (_row_or_none(line) for line in reversed(lines))
    return next((row for row in rows if row is not None and row.get("kind") == kind), None)


def last_step(path: Path) -> int:
    """Return the highest training step of a log; 0 if it has none."""
    return max((row["step"] for row in read_log(path) if row.get("kind") == "train"), default=0)


def _row_or_none(line: bytes) -> dict[str, Any] | None:
    try:
        return _row(line)
    except ValueError:
        return None


def _row(line: bytes) -> dict[str, Any]:
    """Parse a line.

    Raises:
        ValueError: it is not a row that a run can have written.
    """
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError("not a mapping")
    if not isinstance(row.get("step"), int) or not is_number(row["step"], 0, MOST):
        raise ValueError(f"step is {str(row.get('step'))[:40]}, which is no step")
    if row.get("kind") in MEASURED:
        for name in NUMBERS & row.keys():
            if not is_number(row[name], 0, 1e30):
                raise ValueError(f"{name} is {str(row[name])[:40]}, not a positive number")
    if "progress" in row and not is_number(row["progress"], 0, 1):
        raise ValueError(f"progress is {str(row['progress'])[:40]}, not between 0 and 1")
    return row
