"""Read from an array's folder which tasks of which cells it is for, if the submissions file has lost its line.

The calls of an array's tasks are pickled there before sbatch runs (`executor.py`). They are read as data: nothing in
them is imported or run.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Collection, Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.launch.slurm.book.entries import REPORT, TASK, SubmittedArray
from harness.storage.locks import file_owner

NAME = re.compile(rf"[A-Za-z]\w*-({TASK})-[0-9a-f]{{8}}")
SCRIPT = "submission.sh"
UNKNOWN_THROTTLE = 2**31
_ARRAY = TypeAdapter(SubmittedArray)


def unrecorded_arrays(jobs: Path, known: Collection[str]) -> Iterator[SubmittedArray]:
    """The arrays that were to be submitted from folders in `jobs`, except those with these names.

    A folder whose calls cannot be read is left out: SLURM says if jobs of it are live.
    """
    folders = sorted(jobs.iterdir(), key=lambda path: path.name) if jobs.is_dir() else []
    for folder in folders:
        match = NAME.fullmatch(folder.name)
        if match is not None and folder.name not in known and (folder / SCRIPT).is_file():
            array = _array(folder, match[1])
            if array is not None:
                yield array


def recipe_of_report(folder: Path) -> str | None:
    """The recipe, as JSON, of the report job that was submitted from a folder; None if it cannot be read."""
    try:
        (recipe,) = _arguments(folder / "0.pkl")
    except ValueError:
        return None
    return recipe if isinstance(recipe, str) else None


def _array(folder: Path, task: str) -> SubmittedArray | None:
    try:
        calls = [] if task == REPORT else [_call(path) for path in _pickles(folder)]
        fields = {
            "name": folder.name, "stage": task, "cells": [cell for cell, _ in calls],
            "attempts": [attempt for _, attempt in calls], "folder": str(folder.resolve()),
            "throttle": UNKNOWN_THROTTLE, "user": file_owner(folder),
        }  # fmt: skip
        array = _ARRAY.validate_json(json.dumps(fields))
    except (OSError, ValueError, TypeError):
        return None
    return array if bool(calls) == (task != REPORT) else None


def _pickles(folder: Path) -> Iterator[Path]:
    paths = (folder / f"{index}.pkl" for index in count())
    return takewhile(Path.exists, paths)


def _call(path: Path) -> tuple[str, int]:
    """Cell and attempt of a task's call, `run_task(recipe, cell, task, attempt)`.

    Raises:
        ValueError: the file is no such call.
    """
    _, cell, _, attempt = _arguments(path)
    return cell, attempt


def _arguments(path: Path) -> tuple[Any, ...]:
    """The arguments of a pickled call.

    Raises:
        ValueError: the file is no call, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return tuple(_Data(file).load().content["args"])
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"{path} is not the call of a task: {error}") from error


class _Inert:
    """In place of every class and function of a pickle: takes what it is given, and does nothing."""

    def __init__(self, *_: object) -> None:
        self.content: Any = None

    def __setstate__(self, content: object) -> None:
        self.content = content


class _Data(pickle.Unpickler):
    """Reads a pickle without importing anything."""

    def find_class(self, module: str, name: str) -> type[_Inert]:
        return _Inert
