"""Submit missing work as job arrays: train → embed → evaluate as dependent arrays, and one report job after all.

Grid cells whose stages request the same resources share arrays: task i of an array waits for task i of the array
before. A cell that starts from another's final state waits for that one's training. If several jobs share the embedding
of a cell (`stages/shared_embedding.py`), each is in an array of its own. What is queued or running is not submitted
again; what failed for a transient reason is.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.launch.owner import SWEEP_LOCK
from harness.launch.slurm import commands
from harness.launch.slurm.book.entries import REPORT, Key, Submitted, SubmittedArray
from harness.launch.slurm.book.evidence import known_states, refuse_attended, refuse_others, refuse_strangers
from harness.launch.slurm.book.folders import recipe_of_report
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.cancel import LiveJob, orphans
from harness.launch.slurm.code_snapshot import snapshot
from harness.launch.slurm.commands import SlurmError
from harness.launch.slurm.job import run_task
from harness.launch.slurm.job_chains import (
    ArrayGroup,
    ArrayTask,
    HeldBack,
    JobChain,
    array_groups,
    by_level,
    decide_all,
    depending,
    task_resources,
)
from harness.launch.slurm.job_states import REPLACED, JobState
from harness.launch.slurm.options import arguments, field_of, parameters
from harness.plan.resources import Resources
from harness.recipe.fields import unusable_by_slurm
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork
from harness.storage.fencing import fence_file, read_fence
from harness.storage.locks import refuse_if_held, user_name

MOST_LINES = 50
LastJob = Callable[[str], None]


@dataclass(frozen=True)
class SubmitResult:
    """The arrays that one call submitted, the cells that it held back, and live jobs of cells that it does not know."""

    entries: tuple[SubmittedArray, ...]
    held: tuple[HeldBack, ...]
    orphans: tuple[LiveJob, ...] = ()

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
        return [*done, *_shortened(held), *_shortened(live)]


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
        _replace(submissions, [job for chain in chains for job in chain.replaced])
        is_needed = bool(chains) or _lacks_report(submissions, known)
        entries = _submit_chains(recipe, submissions, chains, latest, last_job) if is_needed else []
    return SubmitResult(tuple(entries), tuple(held), orphans(submissions, known, {w.cell.id for w in work_items}))


def _replace(submissions: Submissions, jobs: Sequence[str]) -> None:
    """Cancel jobs whose work others are to do; recorded first, so that nobody takes them for cancelled by a person."""
    submissions.record_ended({job: JobState("CANCELLED", REPLACED) for job in jobs})
    commands.cancel(jobs)


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


def _submit_chains(
    recipe: Recipe,
    submissions: Submissions,
    chains: Sequence[JobChain],
    latest: dict[Key, Submitted],
    last_job: LastJob,
) -> list[SubmittedArray]:
    """Submit chains grouped into arrays, and the report job after these and all other live jobs."""
    code = snapshot(recipe.output)
    largest = max(1, commands.max_array_size() - 1)  # a cluster without arrays says 0 and gets single jobs
    entries: list[SubmittedArray] = []
    trained: dict[str, ArrayTask] = {}
    for level in by_level(chains):
        for group in array_groups(recipe, level, trained, largest):
            submitted = _submit_group(recipe, submissions, group, latest, code)
            trained |= {cell: (entry, n) for entry in submitted[:1] for n, cell in enumerate(entry.cells)}
            entries += submitted
    entries.append(_submit_report(recipe, submissions, code, last_job))
    return entries


def _lacks_report(submissions: Submissions, known: dict[str, JobState]) -> bool:
    """Whether jobs are live that no live report job waits for, because its submission failed or it was cancelled.

    A report job of an earlier version, whose entry has no user, cannot read the submissions file of this one.
    """
    if not any(state.is_live for state in known.values()):
        return False
    reports = [job for entry in submissions.entries if entry.stage == REPORT and entry.user for job in entry.jobs]
    return not any(known[job].is_live for job in reports)


def _submit_group(
    recipe: Recipe, submissions: Submissions, group: ArrayGroup, latest: dict[Key, Submitted], code: Path
) -> list[SubmittedArray]:
    chain, members, dependency = group.chains[0], [chain.cell for chain in group.chains], group.condition
    entries: list[SubmittedArray] = []
    for position, tasks in enumerate(chain.tasks):
        arrays = []
        for task in tasks:
            entry = _submit_array(recipe, submissions, task, members, latest, code, dependency)
            arrays.append(entry.array or "")
            entries.append(entry)
        conditions = [depending("aftercorr" if len(members) > 1 else "afterok", arrays)]
        conditions += [depending("afterok", chain.concurrent)] if position == 0 else []
        dependency = ",".join(condition for condition in conditions if condition)
    return entries


def _submit_array(
    recipe: Recipe, submissions: Submissions, task: str, group: Sequence[Cell], latest: dict[Key, Submitted],
    code: Path, dependency: str | None,
) -> SubmittedArray:  # fmt: skip
    """Submit one task of each of these cells, and record it in the submissions file before and after."""
    attempts = tuple(_attempt(recipe, cell, task, latest.get((cell.id, task))) for cell in group)
    entry = _entry(recipe, task, tuple(cell.id for cell in group), attempts)
    submissions.plan(entry)
    options = parameters(recipe, task_resources(recipe, group[0], task), entry.name, code, dependency)
    array = _submit(recipe, entry, options)
    submissions.submitted(entry.name, array)
    return replace(entry, array=array)


def _attempt(recipe: Recipe, cell: Cell, task: str, last: Submitted | None) -> int:
    """The number of a new attempt: after the last one in the submissions file, and after the last one that started."""
    started = read_fence(fence_file(cell_folder(recipe, cell), task))
    return 1 + max(last.attempt if last else 0, started.attempt if started else 0)


def _entry(recipe: Recipe, stage: str, cell_ids: tuple[str, ...], attempts: tuple[int, ...]) -> SubmittedArray:
    name = f"{recipe.name}-{stage}-{uuid.uuid4().hex[:8]}"
    folder, parallel = str(recipe.output.resolve() / "jobs" / name), recipe.launch.parallel
    return SubmittedArray(name, stage, cell_ids, attempts, folder, parallel, user=user_name())


def _submit(recipe: Recipe, entry: SubmittedArray, options: dict[str, Any]) -> str:
    """Submit an array through submitit, and return SLURM's id of it."""
    from harness.launch.slurm.executor import NamedExecutor

    executor = NamedExecutor(folder=entry.folder)
    executor.update_parameters(**options)
    count, text = len(entry.cells), recipe.model_dump_json()
    jobs = executor.map_array(run_task, [text] * count, entry.cells, [entry.stage] * count, entry.attempts)
    return str(jobs[0].job_id).split("_")[0]


def _submit_report(recipe: Recipe, submissions: Submissions, code: Path, last_job: LastJob) -> SubmittedArray:
    """Submit the report job after all live arrays of this study, replacing those that are still queued.

    One that also ends live cells which this recipe does not have, because it has other overrides, is left.
    """
    from harness.launch.slurm.executor import NamedExecutor

    known = known_states(recipe.output, submissions)
    live = [entry for entry in submissions.entries if any(known[job].is_live for job in entry.jobs)]
    others = {job.cell for job in orphans(submissions, known, {cell.id for cell in cells(recipe)})}
    reports = [entry for entry in live if entry.stage == REPORT and known[entry.jobs[0]].phase == "queued"]
    _replace(submissions, [entry.jobs[0] for entry in reports if not (others and others & _cells_of_report(entry))])
    arrays = [entry.array for entry in live if entry.stage != REPORT and entry.array]
    entry = _entry(recipe, REPORT, (), ())
    submissions.plan(entry)
    resources = Resources(1, 1, 0, recipe.launch.cpus_per_task)
    options = parameters(recipe, resources, entry.name, code, depending("afterany", arrays))
    executor = NamedExecutor(folder=entry.folder)
    executor.update_parameters(**options, use_srun=False)  # a job step cannot submit jobs
    array = str(executor.submit(last_job, recipe.model_dump_json()).job_id)
    submissions.submitted(entry.name, array)
    return replace(entry, array=array)


def _cells_of_report(entry: SubmittedArray) -> set[str]:
    """The cells of the recipe that a report job is for; none if that cannot be read."""
    text = recipe_of_report(Path(entry.folder))
    try:
        return {cell.id for cell in cells(Recipe.model_validate_json(text, strict=False))} if text else set()
    except ValueError:  # of another version
        return set()
