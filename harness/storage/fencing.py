"""Fencing: only the newest start of a grid cell's stage may write results.

A lost node can come back with its process alive after SLURM has requeued the job on another node, and a lock does not
help if its holder cannot be reached. So every start of a stage on a cluster writes its fencing token to
`fence-<task>.json`, and checks that file before it publishes a checkpoint or a ledger row. Tokens are ordered by
attempt, restart count and job, so that of two jobs that were submitted as the same attempt only one may write.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.storage.atomic import write_json
from harness.storage.json_files import is_number, read_json


class Fenced(RuntimeError):  # noqa: N818  (not an error of this process)
    """A newer start of the same cell has taken over."""


@dataclass(frozen=True)
class Start:
    """The fencing token of a start of a stage: the number of its submission, SLURM's restart count of that job, and
    SLURM's id of it, `123` or `123_4`."""

    attempt: int
    restart: int
    job: str

    def __str__(self) -> str:
        return f"job {self.job} (attempt {self.attempt}, restart {self.restart})"

    def is_newer_than(self, other: Start) -> bool:
        """Whether this start may take over; of equal attempts and restarts, the job that was submitted later may."""
        return self._order > other._order

    @property
    def _order(self) -> tuple[int, ...]:
        return self.attempt, self.restart, *(int(number) for number in re.findall(r"\d{1,12}", self.job))


def fence_file(folder: Path, stage: str) -> Path:
    """Where a stage's token is."""
    return folder / f"fence-{stage}.json"


class Fence:
    """The right to write a stage's results, held until a newer start takes over."""

    def __init__(self, folder: Path, stage: str, start: Start) -> None:
        """Take over a cell's stage from every older start.

        Raises:
            Fenced: a newer start has already taken over.
        """
        self._path, self._start = fence_file(folder, stage), start
        holder = read_fence(self._path)
        if holder is not None and holder.is_newer_than(start):
            raise Fenced(f"{folder.name}: {holder} has taken over stage {stage} from {start}")
        write_json(self._path, asdict(start))

    def check(self) -> None:
        """Check that no newer start has taken over.

        Raises:
            Fenced: a newer start has taken over.
        """
        holder = read_fence(self._path)
        if holder != self._start:
            newer = holder or f"a file without a token, {self._path},"
            raise Fenced(f"{self._path.parent.name}: {newer} has taken over from {self._start}: nothing was written")


def read_fence(path: Path) -> Start | None:
    """The newest start of a stage; None if there is none, or the file holds no token.

    Raises:
        Fenced: the file cannot be read.
    """
    try:
        value = read_json(path)
        attempt, restart, job = value["attempt"], value["restart"], value["job"]
    except (FileNotFoundError, KeyError, TypeError):
        return None
    except ValueError as error:
        if isinstance(error.__cause__, OSError):  # unknown is not nobody: an older start must not go on
            raise Fenced(f"{path}: {error}") from error
        return None  # not written by this module, which renames complete files
    whole = all(isinstance(number, int) and is_number(number, 0) for number in (attempt, restart))
    return Start(attempt, restart, job) if whole and isinstance(job, str) else None


class Unfenced(Fence):
    """A fence that never refuses, for processes without fencing such as local jobs, which lock their cell instead."""

    def __init__(self) -> None:
        """Write no fencing token."""

    def check(self) -> None:
        """Do nothing."""
