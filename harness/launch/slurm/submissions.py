"""The submissions file: which SLURM job runs which task of which grid cell. Written before and after each submission.

It is `<output>/jobs/book.json`, written atomically. An entry is one job array; array task i is for its i-th cell. An
entry without a job id was being submitted when its writer died, or when SLURM did not answer; the array's unique name
shows if SLURM accepted it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from harness.launch.slurm.job_states import find
from harness.storage.atomic import write_json

Key = tuple[str, str]
"""Cell id and task: a stage, or one job's share of it (`stages/tasks.py`)."""


STRICT = ConfigDict(strict=True, extra="forbid")
Task = Annotated[str, Field(pattern=r"^(train|embed|evaluate|report|embed\.\d{1,6}-of-\d{1,6})$")]
Number = Annotated[int, Field(ge=1, le=2**31)]
JobNumber = Annotated[str, Field(pattern=r"^\d{1,12}$")]  # it becomes an argument of SLURM's commands


@dataclass(frozen=True)
class SubmittedArray:
    """One job array, or the job that reports after all others (stage `report`, no cells).

    `name` is unique; `stage` is a task: a stage, or one job's share of it, `embed.3-of-8`; `attempts` counts for each
    cell how often that was submitted, from 1.
    """

    __pydantic_config__: ClassVar = STRICT

    name: str
    stage: Task
    cells: tuple[str, ...]
    attempts: tuple[Number, ...]
    folder: str
    throttle: Number
    array: JobNumber | None = None

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.attempts):
            raise ValueError(f"{self.name} has {len(self.cells)} cells and {len(self.attempts)} attempts")

    def job(self, position: int) -> str:
        """SLURM's id of one array task; an array of one is a plain job."""
        assert self.array is not None
        return f"{self.array}_{position}" if len(self.cells) > 1 else self.array

    @property
    def jobs(self) -> list[str]:
        """SLURM's ids of all array tasks."""
        return [self.job(position) for position in range(max(1, len(self.cells)))]


@dataclass(frozen=True)
class _Book:
    """The content of the submissions file."""

    __pydantic_config__: ClassVar = STRICT

    version: Literal[1]
    entries: tuple[SubmittedArray, ...]


_BOOK = TypeAdapter(_Book)


@dataclass(frozen=True)
class Submitted:
    """The newest submission of a cell's task."""

    job: str
    attempt: int
    folder: Path


class SubmissionsError(ValueError):
    """The submissions file cannot be read; the text names it."""


class Submissions:
    """The entries of the submissions file in order of submission. Change it only while holding `locked`."""

    def __init__(self, output: Path) -> None:
        self.path = output / "jobs" / "book.json"
        self.entries: list[SubmittedArray] = _read(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait for the lock that all sweeps of this study share, read the file again, and hold the lock.

        Raises:
            SlurmError: a submission was interrupted, and squeue does not say whether SLURM took it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / "book.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.entries = _read(self.path)
            self._resolve_unfinished()
            yield

    def plan(self, entry: SubmittedArray) -> None:
        """Record an array that is about to be submitted."""
        self.entries.append(entry)
        self._write()

    def submitted(self, name: str, array: str) -> None:
        """Record the id that SLURM assigned."""
        self._change(name, array=array)

    def _change(self, name: str, **values: Any) -> None:  # noqa: ANN401  (fields of SubmittedArray)
        self.entries = [replace(entry, **values) if entry.name == name else entry for entry in self.entries]
        self._write()

    def latest(self) -> dict[Key, Submitted]:
        """The newest submission of each task of each cell."""
        newest: dict[Key, Submitted] = {}
        for entry in self.entries:
            if entry.array is not None:
                for position, (cell, attempt) in enumerate(zip(entry.cells, entry.attempts, strict=True)):
                    newest[cell, entry.stage] = Submitted(entry.job(position), attempt, Path(entry.folder))
        return newest

    def set_throttle(self, name: str, throttle: int) -> None:
        """Record an array's changed throttle."""
        self._change(name, throttle=throttle)

    def _resolve_unfinished(self) -> None:
        """Complete entries whose submission was interrupted with the id that SLURM has for their name; drop the others.

        Raises:
            SlurmError: squeue does not answer.
        """
        unfinished = [entry.name for entry in self.entries if entry.array is None]
        if not unfinished:
            return
        arrays = find(unfinished)
        resolved = [replace(entry, array=entry.array or arrays.get(entry.name)) for entry in self.entries]
        self.entries = [entry for entry in resolved if entry.array]
        self._write()

    def _write(self) -> None:
        write_json(self.path, {"version": 1, "entries": [asdict(entry) for entry in self.entries]})


def _read(path: Path) -> list[SubmittedArray]:
    try:
        book = _BOOK.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise SubmissionsError(
            f"{path}: not a submissions file ({_first(error)}); if you move it away, cancel the jobs that squeue still "
            "shows"
        ) from None
    return list(book.entries)


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:300]
