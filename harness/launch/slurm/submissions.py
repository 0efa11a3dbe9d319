"""The job book: which cell's stage was given to which SLURM job, written before and after each submission.

`<output>/jobs/book.json`, by rename. An entry is one job array; element i is its i-th cell. An entry without a job id
was being submitted when its writer died; the array's name, which is its own, tells whether SLURM took it.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.launch.slurm.commands import ask
from harness.storage.atomic import write_json

Key = tuple[str, str]
"""Cell id, and a stage or one element of it (`shared_embedding`)."""


@dataclass(frozen=True)
class SubmittedArray:
    """One job array, or the job that reports when all is over (stage `report`, no cells).

    `name` is unique; `stage` may be one element of a stage, `embed.3-of-8` (`shared_embedding`); `attempts` counts for
    each cell how often that was submitted, from 1.
    """

    name: str
    stage: str
    cells: tuple[str, ...]
    attempts: tuple[int, ...]
    folder: str
    throttle: int
    array: str | None = None

    def job(self, position: int) -> str:
        """SLURM's id of one element; an array of one is a plain job."""
        assert self.array is not None
        return f"{self.array}_{position}" if len(self.cells) > 1 else self.array

    @property
    def jobs(self) -> list[str]:
        """SLURM's ids of all elements."""
        return [self.job(position) for position in range(max(1, len(self.cells)))]


@dataclass(frozen=True)
class Submitted:
    """The newest submission of a cell's stage."""

    job: str
    attempt: int
    folder: Path


class SubmissionsError(ValueError):
    """A job book that cannot be read; the text names it."""


class Submissions:
    """Entries in the order of their submission. Change it only while holding `locked`."""

    def __init__(self, output: Path) -> None:
        self.path = output / "jobs" / "book.json"
        self.entries: list[SubmittedArray] = _read(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the book against every other sweep of this study, waiting for it, and read it anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / "book.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.entries = _read(self.path)
            self._settle()
            yield

    def plan(self, entry: SubmittedArray) -> None:
        """Note an array that is about to be submitted."""
        self.entries.append(entry)
        self._write()

    def submitted(self, name: str, array: str) -> None:
        """Note the id that SLURM gave."""
        self._change(name, array=array)

    def _change(self, name: str, **values: Any) -> None:  # noqa: ANN401  (fields of Entry)
        self.entries = [replace(entry, **values) if entry.name == name else entry for entry in self.entries]
        self._write()

    def latest(self) -> dict[Key, Submitted]:
        """The newest submission of every cell's stage."""
        found: dict[Key, Submitted] = {}
        for entry in self.entries:
            if entry.array is not None:
                for position, (cell, attempt) in enumerate(zip(entry.cells, entry.attempts, strict=True)):
                    found[cell, entry.stage] = Submitted(entry.job(position), attempt, Path(entry.folder))
        return found

    def set_throttle(self, name: str, throttle: int) -> None:
        """Note that an array's throttle was changed."""
        self._change(name, throttle=throttle)

    def _settle(self) -> None:
        """Give entries of writers that died the id that SLURM knows by their name, or drop them."""
        if all(entry.array for entry in self.entries):
            return
        lines = ask("squeue", "--me", "--noheader", "--states=all", "--format=%F %j").splitlines()
        arrays = {name: array for array, name in (line.split(maxsplit=1) for line in lines)}
        settled = [replace(entry, array=entry.array or arrays.get(entry.name)) for entry in self.entries]
        self.entries = [entry for entry in settled if entry.array]
        self._write()

    def _write(self) -> None:
        write_json(self.path, {"version": 1, "entries": [asdict(entry) for entry in self.entries]})


def _read(path: Path) -> list[SubmittedArray]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    try:
        return [_entry(value) for value in json.loads(text)["entries"]]
    except (ValueError, KeyError, TypeError) as error:
        raise SubmissionsError(
            f"{path}: not a job book ({error}); move it away, and SLURM's queue is all that is known"
        ) from None


def _entry(value: dict[str, Any]) -> SubmittedArray:
    return SubmittedArray(**{**value, "cells": tuple(value["cells"]), "attempts": tuple(value["attempts"])})
