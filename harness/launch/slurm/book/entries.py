"""One submitted job array, and the forms that its fields must have wherever they are read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

Key = tuple[str, str]
"""Cell id and task: a stage, or one job's share of it (`stages/tasks.py`)."""

REPORT = "report"
TASK = r"(?:train|embed|evaluate|report|embed\.\d{1,6}-of-\d{1,6})"
STRICT = ConfigDict(strict=True, extra="forbid")
Task = Annotated[str, Field(pattern=rf"^{TASK}$")]
Number = Annotated[int, Field(ge=1, le=2**31)]
JobNumber = Annotated[str, Field(pattern=r"^\d{1,12}$")]  # it becomes an argument of SLURM's commands
JobId = Annotated[str, Field(pattern=r"^\d{1,12}(_\d{1,9})?$")]
ArrayName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=255)]  # also the name of a folder
CellId = Annotated[str, Field(pattern=r"^[^\x00-\x20/]+$", max_length=512)]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=4096)]


@dataclass(frozen=True)
class SubmittedArray:
    """One job array, or the job that reports after all others (stage `report`, no cells).

    `name` is unique; `stage` is a task: a stage, or one job's share of it, `embed.3-of-8`; `attempts` counts for each
    cell how often that was submitted, from 1; `user` is who submitted it, empty in books of earlier versions.
    """

    __pydantic_config__: ClassVar = STRICT

    name: ArrayName
    stage: Task
    cells: tuple[CellId, ...]
    attempts: tuple[Number, ...]
    folder: Text
    throttle: Number
    array: JobNumber | None = None
    user: Text = ""

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.attempts):
            raise ValueError(f"{self.name} has {len(self.cells)} cells and {len(self.attempts)} attempts")

    def taken(self, array: str | None, throttle: int) -> SubmittedArray:
        """The same with SLURM's id of it, and its throttle now."""
        return SubmittedArray(
            self.name, self.stage, self.cells, self.attempts, self.folder, throttle, array, self.user
        )  # fmt: skip

    def job(self, position: int) -> str:
        """SLURM's id of one array task; an array of one is a plain job."""
        assert self.array is not None
        return f"{self.array}_{position}" if len(self.cells) > 1 else self.array

    @cached_property
    def jobs(self) -> tuple[str, ...]:
        """SLURM's ids of all array tasks; none if it is not known that SLURM took them."""
        return tuple(self.job(position) for position in range(max(1, len(self.cells)))) if self.array else ()


@dataclass(frozen=True)
class Submitted:
    """The newest submission of a cell's task."""

    job: str
    attempt: int
    folder: Path
    user: str = ""
