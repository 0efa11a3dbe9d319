"""Submit the missing work of a study, if nothing speaks against it, once: `arrays/submitter.py` submits the arrays.

What is queued or running is not submitted again; what failed for a transient reason is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.launch.owner import SWEEP_LOCK
from harness.launch.slurm import commands
from harness.launch.slurm.arrays.submitter import LastJob, Submitter, replace_jobs
from harness.launch.slurm.book.entries import REPORT, Submitted, SubmittedArray
from harness.launch.slurm.book.evidence import known_states, refuse_attended, refuse_others, refuse_strangers
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.cancel import LiveJob, orphans
from harness.launch.slurm.code_snapshot import snapshot
from harness.launch.slurm.commands import LimitError, SlurmError
from harness.launch.slurm.job_chains import HeldBack, JobChain, decide_all, task_resources
from harness.launch.slurm.job_states import JobState
from harness.launch.slurm.options import arguments, field_of
from harness.recipe.fields import unusable_by_slurm
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork
from harness.storage.locks import refuse_if_held

MOST_LINES = 50
NO_PLACE = (
    "nothing was submitted: wait until other jobs have ended, or set another launch.slurm.account or launch.slurm.qos"
)


@dataclass(frozen=True)
class SubmitResult:
    """The arrays that one call submitted, the cells that it held back, and live jobs of cells that it does not know.

    `limit` is SLURM's name of a limit that left no place for all jobs; then `waiting` cells lack some of theirs.
    """

    entries: tuple[SubmittedArray, ...]
    held: tuple[HeldBack, ...]
    orphans: tuple[LiveJob, ...] = ()
    limit: str | None = None
    waiting: int = 0

    def lines(self) -> list[str]:
        """What was done, for a terminal."""
        of_cells = [f" of {len(entry.cells)} cells" if entry.cells else "" for entry in self.entries]
        done = [
            f"submitted job {entry.array}: {entry.stage}{of}" for entry, of in zip(self.entries, of_cells, strict=True)
        ]
        held = [f"held back {held}" for held in self.held]
        live = [f"still live, though the recipe does not have it: {job}" for job in self.orphans]
        if live:
            live.append("these jobs are from before an edit, or of other overrides: cancel --orphans ends them")
        return [*done, *self._waiting(), *_shortened(held), *_shortened(live)]

    def _waiting(self) -> list[str]:
        if self.limit is None:
            return []
        reported = any(entry.stage == REPORT for entry in self.entries)
        later = "the report job" if reported else "there is no report job, so that only run again"
        return [f"{self.waiting} cells wait for a place ({self.limit}); {later} submits the rest"]


def _shortened(lines: Sequence[str]) -> list[str]:
    """The same, without the middle of a long list."""
    if len(lines) <= MOST_LINES:
        return list(lines)
    return [*lines[: MOST_LINES - 1], f"... and {len(lines) - MOST_LINES} more; status shows all", lines[-1]]


def submit(
    recipe: Recipe, work_items: Sequence[CellWork], last_job: LastJob, force: bool = False, resume: bool = False
) -> SubmitResult:
    """Submit what is missing and neither queued nor running.

    Two calls at once, on any hosts that share the files, submit each cell once: the second waits for the first.

    Args:
        work_items: of every cell of the study.
        last_job: runs in a job after all others, with the recipe's JSON.
        force: submit what failed for a permanent reason too.
        resume: submit what somebody cancelled too.

    Raises:
        LimitError: a limit on the number of jobs leaves no place for any of this study.
        SlurmError: SLURM refuses a resource request, and nothing was submitted; or it does not answer, and what it has
            taken is in the submissions file, or is found by its name in the next call.
        UnaccountedError: another user's jobs may be live, or jobs of this study that are not in the submissions file.
        HeldError: a sweep of this output runs cells on this machine.
    """
    _check_paths(recipe)
    submissions = Submissions(recipe.output)
    with submissions.locked():
        refuse_if_held(recipe.output / SWEEP_LOCK, f"a sweep of {recipe.output} on this machine")
        refuse_strangers(submissions, submissions.adopt())
        known = known_states(recipe.output, submissions)
        submissions.record_ended(known)
        refuse_others(submissions, known, "nothing was submitted")
        if resume:
            submissions.resume(work.cell.id for work in work_items)
        latest = submissions.latest()
        of_cell: dict[str, dict[str, Submitted]] = {}
        for (cell, task), submitted in latest.items():
            of_cell.setdefault(cell, {})[task] = submitted
        decisions = decide_all(recipe, work_items, of_cell, known, force, resume, submissions.cancelled)
        chains = [decision for decision in decisions if isinstance(decision, JobChain)]
        held = [decision for decision in decisions if isinstance(decision, HeldBack)]
        _check_requests(recipe, chains)
        tasks = [(chain.cell.id, task) for chain in chains for stage in chain.tasks for task in stage]
        refuse_attended(recipe.output, tasks, known.keys())
        _adjust_throttles(recipe, submissions, known)
        replace_jobs(submissions, [job for chain in chains for job in chain.replaced])
        submitter = Submitter(recipe, submissions, latest, last_job)
        if chains or _lacks_report(submissions, known):
            submitter.submit(chains, snapshot(recipe.output))
        if submitter.limit is not None and not submitter.entries and not _has_live_work(submissions, known):
            raise LimitError(f"{submitter.limit}\n{submitter.limit.limit} leaves no place for any job; {NO_PLACE}")
    live = orphans(submissions, known, {work.cell.id for work in work_items})
    limit = submitter.limit.limit if submitter.limit is not None else None
    return SubmitResult(tuple(submitter.entries), tuple(held), live, limit, submitter.waiting)


def _check_paths(recipe: Recipe) -> None:
    """Raise SlurmError if jobs could not use the paths of their logs."""
    unusable = unusable_by_slurm(recipe.output.resolve())
    if unusable:
        raise SlurmError(f"output: {unusable}; nothing was submitted")


def _check_requests(recipe: Recipe, chains: Sequence[JobChain]) -> None:
    """Raise SlurmError if the cluster would refuse the resources or the time limit of any job of these chains."""
    requests = {task_resources(recipe, chain.cell, tasks[0]) for chain in chains for tasks in chain.tasks}
    slurm = recipe.launch.slurm
    longest = commands.longest_minutes(slurm.partition) if requests else math.inf
    if 60 * slurm.hours > longest:
        where = slurm.partition or "the default partition"
        raise SlurmError(f"jobs of {where} end after {longest / 60:g} hours: set launch.slurm.hours to that or less")
    for request in sorted(requests):
        refusal = commands.refusal(arguments(recipe, request))
        if refusal is not None:
            raise SlurmError(
                f"SLURM refuses jobs of {request}:\n  {refusal}\n"
                f"set {field_of(refusal, slurm.options)} in the recipe; nothing was submitted"
            )


def _adjust_throttles(recipe: Recipe, submissions: Submissions, known: dict[str, JobState]) -> None:
    """Set the recipe's current throttle on arrays that are still waiting."""
    for entry in list(submissions.entries):
        waits = any(known[job].phase == "queued" for job in entry.jobs if job in known)
        if len(entry.cells) > 1 and waits and entry.array and entry.throttle != recipe.launch.parallel:
            commands.throttle(entry.array, recipe.launch.parallel)
            submissions.set_throttle(entry.name, recipe.launch.parallel)


def _has_live_work(submissions: Submissions, known: dict[str, JobState]) -> bool:
    """Whether jobs of cells are live; a report job that submits is live itself."""
    work = [job for entry in submissions.entries if entry.stage != REPORT for job in entry.jobs]
    return any(known[job].is_live for job in work if job in known)


def _lacks_report(submissions: Submissions, known: dict[str, JobState]) -> bool:
    """Whether jobs are live that no live report job waits for, because its submission failed or it was cancelled.

    A report job of an earlier version, whose entry has no user, cannot read the submissions file of this one.
    """
    if not any(state.is_live for state in known.values()):
        return False
    reports = [job for entry in submissions.entries if entry.stage == REPORT and entry.user for job in entry.jobs]
    return not any(known[job].is_live for job in reports)
