"""Cancel cells that a sweep runs, or will run, on this machine.

The submissions file names what is cancelled, as it does for SLURM; the sweep looks at it between polls. So it does not
matter from which terminal, or which host with the same files, a cell is cancelled.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from analysis.figures.text_table import counted
from harness.launch.local.record import last_changes
from harness.launch.owner import SWEEP_LOCK
from harness.launch.slurm.book.submissions import Submissions
from harness.stages.missing import CellWork
from harness.storage.kept.remembered import identity
from harness.storage.locks import holder

PATIENCE = 60.0  # seconds in which a sweep has its processes save and end
POLL_SECONDS = 0.2


class Cancelled:
    """The cells that are cancelled now, read again whenever the submissions file has changed."""

    def __init__(self, output: Path) -> None:
        self._output, self._path = output, output / "jobs" / "book.jsonl"
        self._seen: object = None
        self._cells: frozenset[str] = frozenset()

    def cells(self) -> frozenset[str]:
        """Their ids."""
        try:
            found = identity(str(self._path))
        except OSError:
            return frozenset()
        if found != self._seen:
            self._cells, self._seen = frozenset(Submissions(self._output).cancelled), found
        return self._cells


def not_cancelled(output: Path, work_items: Sequence[CellWork], resume: bool) -> list[CellWork]:
    """Those that nobody cancelled, and that start from none that somebody did; with `resume`, all."""
    submissions = Submissions(output)
    if resume and submissions.cancelled:
        with submissions.locked():
            submissions.resume([work.cell.id for work in work_items])
    kept, left_out = [], set(submissions.cancelled)
    for work in work_items:  # a cell comes after the one that it starts from
        if work.cell.id in left_out or (work.cell.start is not None and work.cell.start.id in left_out):
            left_out.add(work.cell.id)
        else:
            kept.append(work)
    if len(kept) < len(work_items):
        print(f"{counted(len(work_items) - len(kept), 'cancelled cell')} left out; resume runs what was cancelled")
    return kept


def wait_for_sweep(output: Path, cells: Collection[str]) -> int:
    """Wait until the sweep of this output, if one runs, has let go of these cells; how many of them it had.

    Raises:
        RuntimeError: it has not within `PATIENCE` seconds; the text says which process it is, and how to end it.
    """
    held = _held(output, cells)
    end = time.monotonic() + PATIENCE
    if held and sys.stderr.isatty():
        print("waiting for the sweep to end their processes", file=sys.stderr, flush=True)
    while _held(output, cells):
        sweep = holder(output / SWEEP_LOCK)
        if sweep is not None and time.monotonic() > end:
            raise RuntimeError(
                f"the cells are recorded as cancelled, but the sweep has not ended them within {PATIENCE:g} s: "
                f"{sweep}; {sweep.remedy}"
            )
        time.sleep(POLL_SECONDS)
    return len(held)


def _held(output: Path, cells: Collection[str]) -> set[str]:
    """Those of the cells that a live sweep runs or will run."""
    if holder(output / SWEEP_LOCK) is None:
        return set()
    changes = last_changes(output, cells)
    return {cell for cell, change in changes.items() if change.phase in ("queued", "running")}
