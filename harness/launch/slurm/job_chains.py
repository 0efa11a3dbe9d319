"""Decide which jobs of a grid cell to submit, from its missing stages and its live jobs."""

from __future__ import annotations

from dataclasses import dataclass

from harness.grid.cell_folder import cell_folder
from harness.grid.cells import Cell
from harness.launch.slurm.failures import Cause, cause, first_failure
from harness.launch.slurm.job_states import JobState
from harness.launch.slurm.submissions import Submitted
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork
from harness.stages.tasks import pending_tasks, read_task, stage_tasks
from harness.storage.ledger import Stage


@dataclass(frozen=True)
class JobChain:
    """The jobs of a cell to submit.

    Attributes:
        tasks: of each stage in turn, those that no live job covers.
        after: live jobs that the first stage waits for.
        concurrent: live jobs that cover the rest of the first stage; the second waits for them too.
        replaced: live jobs to cancel, which these jobs replace.
    """

    cell: Cell
    tasks: tuple[tuple[str, ...], ...]
    after: tuple[str, ...]
    concurrent: tuple[str, ...]
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class HeldBack:
    """A cell that is not submitted again, and why."""

    cell: Cell
    task: str
    cause: Cause


def decide(
    recipe: Recipe, work: CellWork, jobs: dict[str, Submitted], known: dict[str, JobState], force: bool
) -> JobChain | HeldBack | None:
    """What to do for a cell: submit from its first stage that live jobs do not cover, hold it back, or nothing."""
    live = {task: submitted.job for task, submitted in jobs.items() if known[submitted.job].is_live}
    pending = pending_tasks(recipe, work)
    stages = [tasks or _joining_task(recipe, stage, live) for stage, tasks in pending.items()]
    first = next((position for position, tasks in enumerate(stages) if not live.keys() >= set(tasks)), None)
    if first is None:
        return None
    uncovered = tuple(task for task in stages[first] if task not in live)
    for task in uncovered:
        reason = _reason_to_hold_back(recipe, work.cell, task, jobs.get(task), known)
        if reason is not None and not force:
            return HeldBack(work.cell, task, reason)
    after = [live[task] for task in (stages[first - 1] if first else ())]
    concurrent = [live[task] for task in stages[first] if task in live]
    current = {task for stage in pending for task in stage_tasks(recipe, stage)}
    outdated = {task for task in live if task not in current and read_task(task)[0] in work.missing[first:]}
    later = {task for tasks in stages[first + 1 :] for task in tasks}
    replaced = [live[task] for task in live if task in outdated | later]
    return JobChain(work.cell, (uncovered, *stages[first + 1 :]), tuple(after), tuple(concurrent), tuple(replaced))


def _joining_task(recipe: Recipe, stage: Stage, live: dict[str, str]) -> tuple[str, ...]:
    """The task that joins the parts once all shares are done: a live one, else the first, which is run again."""
    tasks = stage_tasks(recipe, stage)
    return tuple(task for task in tasks if task in live)[:1] or tasks[:1]


def _reason_to_hold_back(
    recipe: Recipe, cell: Cell, task: str, ended: Submitted | None, known: dict[str, JobState]
) -> Cause | None:
    """Why a task whose job ended without a result is not submitted again; None if it is."""
    if ended is None:
        return None
    reason = cause(known[ended.job], first_failure(cell_folder(recipe, cell), task, ended.attempt))
    if reason.verdict == "permanent":
        return reason
    if ended.attempt >= recipe.launch.slurm.attempts and known[ended.job].state != "CANCELLED":
        return Cause(f"{reason.text}; {ended.attempt} attempts", "permanent")
    return None
