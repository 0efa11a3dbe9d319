"""What a cell's processes said: the first failing rank's trace, or the log of a rank, across restarts and attempts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.grid.cell_folder import cell_folder
from harness.grid.cells import Cell
from harness.launch.slurm.failures import Failure, first_failure
from harness.launch.slurm.submissions import Submissions, SubmittedArray
from harness.recipe.schema import Recipe
from harness.stages.tasks import read_task
from harness.storage.ledger import STAGES

LINES = 40


def shown(recipe: Recipe, cell: Cell, rank: int | None) -> str:
    """The trace of what failed last and the end of that rank's logs; of `rank` where one is asked for."""
    entries = [entry for entry in Submissions(recipe.output).entries if cell.id in entry.cells and entry.array]
    if not entries:
        return f"{cell.id}: no job of it is in {recipe.output / 'jobs'}"
    failure = _last_failure(recipe, cell, entries)
    wanted = rank if rank is not None else failure.rank if failure else 0
    failed = [entry for entry in entries if failure is not None and entry.stage == failure.stage]
    parts = list(_logs(cell, (failed or entries)[-3:], wanted))
    if failure is not None and rank is None:
        where = f"{failure.stage}, attempt {failure.attempt}, job {failure.job}"
        parts.append(f"{cell.id}: {where}: rank {failure.rank} failed first\n{failure.trace}")
    return "\n".join(parts)


def _last_failure(recipe: Recipe, cell: Cell, entries: list[SubmittedArray]) -> Failure | None:
    attempts = {(entry.stage, entry.attempts[entry.cells.index(cell.id)]) for entry in entries}
    ordered = sorted(attempts, key=lambda one: (one[1], STAGES.index(read_task(one[0])[0])), reverse=True)
    found = (first_failure(cell_folder(recipe, cell), stage, attempt) for stage, attempt in ordered)
    return next((failure for failure in found if failure is not None), None)


def _logs(cell: Cell, entries: list[SubmittedArray], rank: int) -> Iterator[str]:
    """SLURM appends to a job's logs when it restarts it, so one file holds all its restarts."""
    for entry in entries:
        job = entry.job(entry.cells.index(cell.id))
        for path in sorted(Path(entry.folder).glob(f"{job}_{rank}_log.*")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines:
                yield "\n".join([f"--- {path} (last {LINES} lines)", *lines[-LINES:]])
