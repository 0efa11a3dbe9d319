"""What of a grid cell is to be submitted, given what is missing of it and which of its jobs are live."""

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
    """What of a cell is to be submitted.

    Attributes:
        pieces: of each stage in turn, those that no live job covers.
        after: live jobs that the first stage waits for.
        beside: live jobs that cover the rest of the first stage; the second waits for them too.
        replaced: live jobs that these take the place of.
    """

    cell: Cell
    tasks: tuple[tuple[str, ...], ...]
    after: tuple[str, ...]
    beside: tuple[str, ...]
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
    """What to do about a cell: submit from its first stage that live jobs do not cover, hold it back, or nothing."""
    live = {task: one.job for task, one in jobs.items() if known[one.job].is_live}
    pending = pending_tasks(recipe, work)
    wanted = [tasks or _putting_together(recipe, stage, live) for stage, tasks in pending.items()]
    first = next((place for place, tasks in enumerate(wanted) if not live.keys() >= set(tasks)), None)
    if first is None:
        return None
    lacking = tuple(task for task in wanted[first] if task not in live)
    for task in lacking:
        why = _holds_back(recipe, work.cell, task, jobs.get(task), known)
        if why is not None and not force:
            return HeldBack(work.cell, task, why)
    after = [live[task] for task in (wanted[first - 1] if first else ())]
    beside = [live[task] for task in wanted[first] if task in live]
    known_tasks = {task for stage in pending for task in stage_tasks(recipe, stage)}
    outdated = {task for task in live if task not in known_tasks and read_task(task)[0] in work.missing[first:]}
    later = {task for tasks in wanted[first + 1 :] for task in tasks}
    replaced = [live[task] for task in live if task in outdated | later]
    return JobChain(work.cell, (lacking, *wanted[first + 1 :]), tuple(after), tuple(beside), tuple(replaced))


def _putting_together(recipe: Recipe, stage: Stage, live: dict[str, str]) -> tuple[str, ...]:
    """All elements are done and their stage is not: one that lives is at it; else the first, run again, will be."""
    every = stage_tasks(recipe, stage)
    return tuple(task for task in every if task in live)[:1] or every[:1]


def _holds_back(
    recipe: Recipe, cell: Cell, task: str, dead: Submitted | None, known: dict[str, JobState]
) -> Cause | None:
    """Why a piece whose job has ended without its result is not to be submitted again; None if it is."""
    if dead is None:
        return None
    why = cause(known[dead.job], first_failure(cell_folder(recipe, cell), task, dead.attempt))
    if why.verdict == "permanent":
        return why
    if dead.attempt >= recipe.launch.slurm.attempts and known[dead.job].state != "CANCELLED":
        return Cause(f"{why.text}; {dead.attempt} attempts", "permanent")
    return None
