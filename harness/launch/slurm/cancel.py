"""Cancel jobs of a study so that they stay cancelled: until `resume`, nothing submits their cells again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.launch.slurm import commands
from harness.launch.slurm.book.entries import REPORT, SubmittedArray
from harness.launch.slurm.book.evidence import known_states, refuse_others
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.job_states import JobState
from harness.recipe.schema import Recipe


@dataclass(frozen=True)
class LiveJob:
    """A live job of a cell."""

    cell: str
    task: str
    job: str
    state: JobState

    def __str__(self) -> str:
        return f"{self.cell} ({self.task}: {self.state.phase}, job {self.job})"


@dataclass(frozen=True)
class CancelResult:
    """How many jobs were cancelled, and of which cells."""

    jobs: int
    cells: tuple[str, ...]


def orphans(submissions: Submissions, known: Mapping[str, JobState], grid: Collection[str]) -> tuple[LiveJob, ...]:
    """Live jobs of cells that the recipe no longer has, because it was edited since.

    Args:
        grid: the ids of the recipe's cells.
    """
    return tuple(job for job in _live(submissions.entries, known) if job.cell not in grid)


def cancel(recipe: Recipe, grid: Sequence[str], cells: Collection[str] | None = None) -> CancelResult:
    """Cancel the live jobs of this study, or of these cells only. Their checkpoints are kept.

    The cells are recorded as cancelled first. Of a whole study, the report job is cancelled next, which nothing is left
    for, and at last also jobs that were submitted from its folders and that the submissions file has lost.

    Args:
        grid: the ids of the recipe's cells.

    Raises:
        UnaccountedError: jobs of another user are not known to have ended; nothing was cancelled.
    """
    submissions = Submissions(recipe.output)
    if not submissions.entries and recipe.launch.executor != "slurm":
        with submissions.locked():
            submissions.cancel(grid if cells is None else cells)
        return CancelResult(0, ())
    with submissions.locked():
        strangers = submissions.adopt()
        known = known_states(recipe.output, submissions)
        submissions.record_ended(known)
        refuse_others(submissions, known, "nothing was cancelled")
        live = [job for job in _live(submissions.entries, known) if cells is None or job.cell in cells]
        submissions.cancel({*grid, *(job.cell for job in live)} if cells is None else cells)
        jobs = [job.job for job in live]
        if cells is None:
            reports = [job for entry in submissions.entries if entry.stage == REPORT for job in entry.jobs]
            commands.cancel([job for job in reports if known[job].is_live])
            jobs += strangers
        commands.cancel(jobs)
    return CancelResult(len(jobs), tuple(sorted({job.cell for job in live})))


def cancel_orphans(recipe: Recipe, grid: Sequence[str]) -> CancelResult:
    """Cancel the live jobs of cells that the recipe no longer has."""
    submissions = Submissions(recipe.output)
    known = known_states(recipe.output, submissions)
    cells = {job.cell for job in orphans(submissions, known, grid)}
    return cancel(recipe, grid, cells)


def _live(entries: Iterable[SubmittedArray], known: Mapping[str, JobState]) -> list[LiveJob]:
    return [
        LiveJob(cell, entry.stage, job, known[job])
        for entry in entries
        for cell, job in zip(entry.cells, entry.jobs, strict=False)  # no jobs if SLURM's id is not known
        if job in known and known[job].is_live
    ]
