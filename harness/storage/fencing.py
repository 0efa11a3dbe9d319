"""Fencing: only the newest start of a grid cell's stage may write results.

A lost node can come back with its process alive after SLURM has requeued the job on another node, and a lock does not
help if its holder cannot be reached. So every start of a stage on a cluster writes its fencing token to
`fence-<task>.json`, and checks that file before it publishes a checkpoint or a ledger row. Tokens are ordered by
attempt and restart count.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.storage.atomic import write_json
from harness.storage.json_files import is_number, read_json


class Fenced(RuntimeError):  # noqa: N818  (not an error of this process)
    """A newer start of the same cell has taken over."""


@dataclass(frozen=True, order=True)
class Start:
    """The fencing token of a start of a stage: the number of its submission, and SLURM's restart count of that job."""

    attempt: int
    restart: int
    job: str = field(compare=False)


class Fence:
    """The right to write a stage's results, held until a newer start takes over."""

    def __init__(self, folder: Path, stage: str, start: Start) -> None:
        """Take over a cell's stage from every older start.

        Raises:
            Fenced: a newer start has already taken over.
        """
        self._path, self._start = folder / f"fence-{stage}.json", start
        holder = _read(self._path)
        if holder is not None and holder > start:
            raise Fenced(f"{folder.name}: {holder} has taken over stage {stage} from {start}")
        write_json(self._path, asdict(start))

    def check(self) -> None:
        """Check that no newer start has taken over.

        Raises:
            Fenced: a newer start has taken over.
        """
        holder = _read(self._path)
        if holder != self._start:
            raise Fenced(f"{self._path.parent.name}: {holder} has taken over from {self._start}: nothing was written")


def _read(path: Path) -> Start | None:
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
