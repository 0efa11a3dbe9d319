"""A cell belongs to its newest start: what an older one still writes does not count.

A lost node can come back with its process alive after SLURM has started the job again elsewhere, and a lock is no help
where the holder cannot be reached. So every start of a stage on a cluster signs `fence-<stage>.json`, ordered by
attempt and restart count, and looks there again before it makes anything count: a checkpoint, a row of the ledger.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.storage.atomic import write_json


class Fenced(RuntimeError):  # noqa: N818  (it is no error of this process's own)
    """A newer start of the same cell has taken over."""


@dataclass(frozen=True, order=True)
class Start:
    """One start of a stage: the number of its submission, and how often SLURM has restarted that job."""

    attempt: int
    restart: int
    job: str = field(compare=False)


class Fence:
    """The right to write a stage's results, held until a newer start takes it."""

    def __init__(self, folder: Path, stage: str, start: Start) -> None:
        """Take the stage of a cell over from every older start.

        Raises:
            Fenced: a newer start has it.
        """
        self._path, self._start = folder / f"fence-{stage}.json", start
        holder = _read(self._path)
        if holder is not None and holder > start:
            raise Fenced(f"{folder.name}: {holder} has taken {stage} over from {start}")
        write_json(self._path, asdict(start))

    def check(self) -> None:
        """Go on only while no newer start has taken over.

        Raises:
            Fenced: one has.
        """
        holder = _read(self._path)
        if holder != self._start:
            raise Fenced(f"{self._path.parent.name}: {holder} has taken over from {self._start}: nothing was written")


def _read(path: Path) -> Start | None:
    try:
        return Start(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None  # not of ours: written by rename, so never half of one


class Unfenced(Fence):
    """Of a process that nothing can take over from, such as a local job: its cell is kept by a lock."""

    def __init__(self) -> None:
        """Takes nothing over."""

    def check(self) -> None:
        """Never refuses."""
