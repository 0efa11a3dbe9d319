"""Decide which jobs of a grid cell to submit, from its missing stages and its live jobs, and which share arrays."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.launch.slurm.book.entries import Submitted, SubmittedArray
from harness.launch.slurm.book.lines import Cancelled
from harness.launch.slurm.failures import Cause, cause_of, stops
from harness.launch.slurm.job_states import JobState
from harness.plan.resources import Resources, stage_resources
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork
from harness.stages.tasks import pending_tasks, read_task, stage_tasks
from harness.storage.ledger import Stage

TRAIN: Stage = "train"


@dataclass(frozen=True)
class JobChain:
    """The jobs of a cell to submit.

    Attributes:
        tasks: of each stage in turn, those that no live job covers.
        after: live jobs that the first stage waits for.
        start: the cell that this one starts from, if its training is submitted together with these jobs.
        concurrent: live jobs that cover the rest of the first stage; the second waits for them too.
        replaced: live jobs to cancel, which these jobs replace.
    """

    cell: Cell
    tasks: tuple[tuple[str, ...], ...]
    after: tuple[str, ...]
    concurrent: tuple[str, ...]
    replaced: tuple[str, ...]
    start: str | None = None


@dataclass(frozen=True)
class HeldBack:
    """A cell that is not submitted again, and why."""

    cell: Cell
    task: str
    cause: Cause

    def __str__(self) -> str:
        verb = "resume" if self.cause.verdict == "cancelled" else "resume --force"
        return f"{self.cell.id}: {self.task}: {self.cause.text} ({verb} tries again)"


Decision = JobChain | HeldBack | None


def decide_all(
    recipe: Recipe, work_items: Sequence[CellWork], jobs: dict[str, dict[str, Submitted]], known: dict[str, JobState],
    force: bool, resume: bool = False, cancelled: Mapping[str, Cancelled] | None = None,
) -> list[JobChain | HeldBack]:  # fmt: skip
    """What to do for each cell that needs anything; a cell comes after the one that it starts from.

    Args:
        jobs: the newest submission of each task, by cell.
        force: whether to submit again what failed for a permanent reason.
        resume: whether to submit again what somebody cancelled.
        cancelled: cells that are recorded as cancelled.
    """
    decisions: dict[str, Decision] = {}
    for work in work_items:
        mark = (cancelled or {}).get(work.cell.id)
        if mark is not None and work.missing:
            decisions[work.cell.id] = HeldBack(work.cell, _first_task(recipe, work), Cause(mark.text, "cancelled"))
            continue
        start = _start(work, decisions, jobs, known)
        decisions[work.cell.id] = decide(recipe, work, jobs.get(work.cell.id, {}), known, force, start, resume)
    return [decision for decision in decisions.values() if decision is not None]


@dataclass(frozen=True)
class StartJobs:
    """What has become of the training that a cell starts from: it is done, or one of these.

    Attributes:
        live: its job, if it is in the queue.
        submitted: whether it is submitted now.
        held: why it is not.
    """

    cell: str
    live: str | None = None
    submitted: bool = False
    held: Cause | None = None


def _start(
    work: CellWork, decisions: Mapping[str, Decision], jobs: dict[str, dict[str, Submitted]], known: dict[str, JobState]
) -> StartJobs | None:
    """The training that a cell starts from, unless that is done."""
    if work.cell.start is None or TRAIN not in work.missing:
        return None
    start = work.cell.start.id
    decision, job = decisions.get(start), jobs.get(start, {}).get(TRAIN)
    if isinstance(decision, HeldBack) and decision.task == TRAIN:
        return StartJobs(start, held=Cause(f"starts from {start}: {decision.cause.text}", decision.cause.verdict))
    if isinstance(decision, JobChain) and TRAIN in decision.tasks[0]:
        return StartJobs(start, submitted=True)
    return StartJobs(start, job.job) if job is not None and known[job.job].is_live else None


def decide(
    recipe: Recipe, work: CellWork, jobs: dict[str, Submitted], known: dict[str, JobState], force: bool,
    start: StartJobs | None = None, resume: bool = False,
) -> Decision:  # fmt: skip
    """What to do for a cell: submit from its first stage that live jobs do not cover, hold it back, or nothing."""
    live = {task: submitted.job for task, submitted in jobs.items() if known[submitted.job].is_live}
    if start is not None and start.held is not None:
        return HeldBack(work.cell, TRAIN, start.held)
    waiting = {}
    if start is not None and start.submitted:  # what waits for an earlier job of the start would never begin
        waiting = {task: job for task, job in live.items() if known[job].phase == "queued"}
        live = {task: job for task, job in live.items() if task not in waiting}
    pending = pending_tasks(recipe, work)
    stages = [tasks or _joining_task(recipe, stage, live) for stage, tasks in pending.items()]
    first = next((position for position, tasks in enumerate(stages) if not live.keys() >= set(tasks)), None)
    if first is None:
        return None
    uncovered = tuple(task for task in stages[first] if task not in live)
    for task in uncovered:
        reason = None if task in waiting else _reason_to_hold_back(recipe, work.cell, task, jobs.get(task), known)
        if reason is not None and not (resume if reason.verdict == "cancelled" else force):
            return HeldBack(work.cell, task, reason)
    after = [live[task] for task in (stages[first - 1] if first else ())]
    after += [start.live] if start is not None and start.live is not None and TRAIN in uncovered else []
    concurrent = [live[task] for task in stages[first] if task in live]
    current = {task for stage in pending for task in stage_tasks(recipe, stage)}
    outdated = {task for task in live if task not in current and read_task(task)[0] in work.missing[first:]}
    later = {task for tasks in stages[first + 1 :] for task in tasks}
    replaced = [*waiting.values(), *(live[task] for task in live if task in outdated | later)]
    tasks = (uncovered, *stages[first + 1 :])
    of_start = start.cell if start is not None and start.submitted and TRAIN in uncovered else None
    return JobChain(work.cell, tasks, tuple(after), tuple(concurrent), tuple(replaced), of_start)


def _first_task(recipe: Recipe, work: CellWork) -> str:
    """The first task of a cell that is not done."""
    stage, tasks = next(iter(pending_tasks(recipe, work).items()))
    return (*tasks, stage)[0]


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
    reason = cause_of(cell_folder(recipe, cell), task, ended, known[ended.job])
    if reason.verdict != "transient":
        return reason
    failed = ended.attempt - stops(cell_folder(recipe, cell), task)
    if failed >= recipe.launch.slurm.attempts and known[ended.job].state != "CANCELLED":
        return Cause(f"{reason.text}; {failed} attempts", "permanent")
    return None


ArrayTask = tuple[SubmittedArray, int]
"""A task of an array: the array, and its position."""


@dataclass(frozen=True)
class ArrayGroup:
    """Chains that share arrays, and the first condition of the first of these."""

    chains: tuple[JobChain, ...]
    condition: str | None


def by_level(chains: Sequence[JobChain]) -> list[list[JobChain]]:
    """Chains by how many others must be submitted before them, because they start from those."""
    levels: list[list[JobChain]] = []
    level_of: dict[str, int] = {}
    for chain in chains:  # a cell comes after the one that it starts from
        level = level_of[chain.start] + 1 if chain.start is not None else 0
        level_of[chain.cell.id] = level
        if level == len(levels):
            levels.append([])
        levels[level].append(chain)
    return levels


def array_groups(
    recipe: Recipe, chains: Sequence[JobChain], trained: Mapping[str, ArrayTask], largest: int
) -> list[ArrayGroup]:
    """Group chains that can share arrays: the same tasks with the same resources, waiting for the same jobs.

    Where they start from cells of an array, task i of theirs waits for task i of that; so none of them starts from the
    same cell. Those that do not start from all of its cells wait for their own one's, each in a job of its own.
    """
    siblings: Counter[tuple[Any, ...]] = Counter()

    def key(chain: JobChain) -> tuple[Any, ...]:
        resources = tuple(task_resources(recipe, chain.cell, tasks[0]) for tasks in chain.tasks)
        same = chain.after, chain.concurrent, chain.tasks, resources
        if chain.start is None:
            return (*same, "", 0)
        siblings[chain.start, same] += 1
        return (*same, trained[chain.start][0].name, siblings[chain.start, same])

    keyed = sorted(((key(chain), chain) for chain in chains), key=lambda pair: pair[0])
    groups: list[ArrayGroup] = []
    for _, pairs in itertools.groupby(keyed, lambda pair: pair[0]):
        alike = [chain for _, chain in pairs]
        if alike[0].start is None:
            condition = depending("afterok", alike[0].after)
            parts = [alike[start : start + largest] for start in range(0, len(alike), largest)]
            groups += [ArrayGroup(tuple(part), condition) for part in parts]
        else:
            groups += _after_their_starts(alike, trained)
    return groups


def _after_their_starts(chains: Sequence[JobChain], trained: Mapping[str, ArrayTask]) -> list[ArrayGroup]:
    """One group that waits for an array task by task, or a group for each chain."""
    tasks = sorted((trained[chain.start or ""][1], n) for n, chain in enumerate(chains))
    array = trained[chains[0].start or ""][0]
    if [position for position, _ in tasks] == list(range(len(array.cells))):
        kind = "aftercorr" if len(array.cells) > 1 else "afterok"
        return [ArrayGroup(tuple(chains[n] for _, n in tasks), depending(kind, [array.array or ""]))]
    return [ArrayGroup((chains[n],), depending("afterok", [array.job(position)])) for position, n in tasks]


def depending(kind: str, jobs: Sequence[str]) -> str | None:
    """A condition of sbatch's `--dependency`, such as `afterok:1:2`; None without jobs."""
    return f"{kind}:{':'.join(jobs)}" if jobs else None


def task_resources(recipe: Recipe, cell: Cell, task: str) -> Resources:
    return stage_resources(recipe.launch, cell, read_task(task)[0])
