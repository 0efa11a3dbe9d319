"""What SLURM last said of a study's jobs, so that `status` can show it while SLURM does not answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, TypeAdapter

from harness.launch.slurm.book.entries import STRICT, JobId, Text
from harness.launch.slurm.book.lines import content_of
from harness.launch.slurm.job_states import JobState
from harness.storage.atomic import write_atomic

FILE = "last-answer.json"  # in the folder of the submissions file


@dataclass(frozen=True)
class LastAnswer:
    """When SLURM last answered, and what it said of each job: its state, and the reason."""

    __pydantic_config__: ClassVar = STRICT
    time: Annotated[float, Field(ge=0, le=1e11)]  # seconds since the epoch
    jobs: dict[JobId, tuple[Text, Text]]

    @property
    def states(self) -> dict[str, JobState]:
        return {job: JobState(*words) for job, words in self.jobs.items()}


_FILE = TypeAdapter(LastAnswer)


def read(folder: Path) -> LastAnswer | None:
    """The last answer; None if there is none, or if the file is damaged."""
    try:
        return _FILE.validate_json(content_of(folder / FILE))
    except (ValueError, RecursionError):
        return None


def write(folder: Path, states: Mapping[str, JobState]) -> None:
    """Keep an answer, with what earlier ones said of other jobs. Who may not write there keeps nothing."""
    earlier = read(folder)
    jobs = (earlier.jobs if earlier else {}) | {job: (state.state, state.reason) for job, state in states.items()}
    with suppress(OSError, ValueError):  # a reason of SLURM's with control characters
        content = _FILE.dump_json(LastAnswer(time.time(), jobs))
        _FILE.validate_json(content)
        write_atomic(folder / FILE, lambda file: file.write(content))
