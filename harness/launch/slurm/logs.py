"""Read the logs of a grid cell's jobs: the first failing rank's traceback, or the log of one rank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.launch.slurm.book.entries import SubmittedArray
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.failures import STOPPED, Failure, first_failure
from harness.recipe.schema import Recipe
from harness.stages.tasks import read_task
from harness.storage.ledger import STAGES

LINES = 40


def has_jobs(recipe: Recipe, cell: Cell) -> bool:
    """Whether SLURM has taken a job of the cell."""
    return bool(_entries(recipe, cell))


def read_logs(recipe: Recipe, cell: Cell, rank: int | None) -> str:
    """The traceback of the last failure and the end of that rank's logs; with `rank`, only the end of its logs."""
    entries = _entries(recipe, cell)
    if not entries:
        return f"{cell.id}: no job of this cell is in {recipe.output / 'jobs'}"
    failure = _last_failure(recipe, cell, entries)
    shown_rank = rank if rank is not None else failure.rank if failure else 0
    failed = [entry for entry in entries if failure is not None and entry.stage == failure.stage]
    parts = list(_logs(cell, (failed or entries)[-3:], shown_rank))
    if failure is not None and rank is None:
        where = f"{failure.stage}, attempt {failure.attempt}, job {failure.job}"
        parts.append(f"{cell.id}: {where}: rank {failure.rank} failed first\n{failure.trace}")
    return "\n".join(parts)


def _entries(recipe: Recipe, cell: Cell) -> list[SubmittedArray]:
    return [entry for entry in Submissions(recipe.output).entries if cell.id in entry.cells and entry.array]


def _last_failure(recipe: Recipe, cell: Cell, entries: list[SubmittedArray]) -> Failure | None:
    attempts = {(entry.stage, entry.attempts[entry.cells.index(cell.id)]) for entry in entries}
    newest_first = sorted(attempts, key=lambda pair: (pair[1], STAGES.index(read_task(pair[0])[0])), reverse=True)
    failures = (first_failure(cell_folder(recipe, cell), task, attempt) for task, attempt in newest_first)
    return next((failure for failure in failures if failure is not None and failure.kind != STOPPED), None)


def _logs(cell: Cell, entries: list[SubmittedArray], rank: int) -> Iterator[str]:
    """The end of each job's log. SLURM appends to it when it restarts the job, so one file covers all restarts."""
    for entry in entries:
        job = entry.job(entry.cells.index(cell.id))
        for path in sorted(Path(entry.folder).glob(f"{job}_{rank}_log.*")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines:
                yield "\n".join([f"--- {path} (last {LINES} lines)", *lines[-LINES:]])
