"""Submit job chains as arrays: train → embed → evaluate as dependent arrays, and one report job after all.

Grid cells whose stages request the same resources share arrays: task i of an array waits for task i of the array
before. A cell that starts from another's final state waits for that one's training. If several jobs share the embedding
of a cell (`stages/shared_embedding.py`), each is in an array of its own.

Where a limit on the number of jobs leaves no place for all, what fits is submitted. The rest is left to the report job,
which runs when these jobs have ended, or to the next run.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.launch.slurm import commands
from harness.launch.slurm.book.entries import REPORT, Key, Submitted, SubmittedArray
from harness.launch.slurm.book.evidence import known_states
from harness.launch.slurm.book.folders import recipe_of_report
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.cancel import orphans
from harness.launch.slurm.commands import LimitError
from harness.launch.slurm.job import run_task
from harness.launch.slurm.job_chains import (
    ArrayGroup,
    ArrayTask,
    JobChain,
    array_groups,
    by_level,
    depending,
    task_resources,
)
from harness.launch.slurm.job_states import REPLACED, JobState
from harness.launch.slurm.options import parameters
from harness.plan.resources import Resources
from harness.recipe.schema import Recipe
from harness.storage.fencing import fence_file, read_fence
from harness.storage.locks import user_name

LastJob = Callable[[str], None]
PAUSES = (0.0, 1.0, 4.0, 10.0)  # seconds before each look whether the place of a cancelled job is free


class Submitter:
    """What one call submits.

    Attributes:
        entries: the arrays that SLURM took, the report job last.
        limit: SLURM's refusal, where a limit left no place for all.
    """

    def __init__(
        self, recipe: Recipe, submissions: Submissions, latest: Mapping[Key, Submitted], last_job: LastJob
    ) -> None:
        self.entries: list[SubmittedArray] = []
        self.limit: LimitError | None = None
        self._recipe, self._submissions, self._latest, self._last_job = recipe, submissions, latest, last_job
        self._trained: dict[str, ArrayTask] = {}
        self._left: set[Key] = set()  # tasks that are yet to be submitted
        self._is_full = False
        self._code = Path()

    @property
    def waiting(self) -> int:
        """How many cells lack a job, because there was no place."""
        return len({cell for cell, _ in self._left})

    def submit(self, chains: Sequence[JobChain], code: Path) -> None:
        """Submit chains grouped into arrays, and the report job after these and all other live jobs.

        Args:
            code: the copy of the code that jobs run.

        Raises:
            SlurmError: SLURM does not take an array, for another reason than a limit.
        """
        self._code = code
        self._left = {(chain.cell.id, task) for chain in chains for stage in chain.tasks for task in stage}
        largest = max(1, commands.max_array_size() - 1)  # a cluster without arrays says 0 and gets single jobs
        for level in by_level(chains):
            ready = [chain for chain in level if chain.start is None or chain.start in self._trained]
            for group in array_groups(self._recipe, ready, self._trained, largest):
                self._fit(group)
        self._submit_report_in_place()

    def _fit(self, group: ArrayGroup) -> None:
        """Submit a group, or as much of it as there are places for."""
        if self._is_full or self._submit_group(group):
            return
        half = len(group.chains) // 2
        self._is_full = half == 0
        self._fit(replace(group, chains=group.chains[:half]))
        if "aftercorr" not in (group.condition or ""):  # else task i waits for task i, counted from the first
            self._fit(replace(group, chains=group.chains[half:]))

    def _submit_group(self, group: ArrayGroup) -> bool:
        """Submit the arrays of a group in turn; False if there was no place for the first."""
        chain, members, dependency = group.chains[0], [chain.cell for chain in group.chains], group.condition
        for position, tasks in enumerate(chain.tasks):
            arrays: list[SubmittedArray] = []
            for task in tasks:
                entry = self._submit_array(task, members, dependency)
                if entry is None:
                    return position > 0 or bool(arrays)
                arrays.append(entry)
            if position == 0:
                self._trained |= {cell.id: (arrays[0], n) for n, cell in enumerate(members)}
            ids = [str(entry.array) for entry in arrays]
            conditions = [depending("aftercorr" if len(members) > 1 else "afterok", ids)]
            conditions += [depending("afterok", chain.concurrent)] if position == 0 else []
            dependency = ",".join(condition for condition in conditions if condition)
        return True

    def _submit_array(self, task: str, group: Sequence[Cell], dependency: str | None) -> SubmittedArray | None:
        """Submit one task of each of these cells; None if there is no place for them."""
        recipe = self._recipe
        attempts = tuple(_attempt(recipe, cell, task, self._latest.get((cell.id, task))) for cell in group)
        entry = _entry(recipe, task, tuple(cell.id for cell in group), attempts)
        options = parameters(recipe, task_resources(recipe, group[0], task), entry.name, self._code, dependency)
        taken = self._recorded(entry, lambda: _submit(recipe, entry, options))
        self._left -= {(cell.id, task) for cell in group} if taken is not None else set()
        return taken

    def _recorded(self, entry: SubmittedArray, call: Callable[[], str]) -> SubmittedArray | None:
        """Submit an array, recorded in the submissions file before and after; None if there is no place for it."""
        self._submissions.plan(entry)
        try:
            taken = replace(entry, array=call())
        except LimitError as error:
            self.limit = error
            self._submissions.drop(entry.name)
            shutil.rmtree(entry.folder, ignore_errors=True)
            return None
        self._submissions.submitted(entry.name, str(taken.array))
        self.entries.append(taken)
        return taken

    def _submit_report_in_place(self) -> None:
        """Submit the report job; if there is no place for it, in that of the last job that was submitted now.

        Where that is the only one, it goes on without a report job.
        """
        if self._submit_report() or not self._give_back():
            return
        for pause in PAUSES:
            time.sleep(pause)
            if self._submit_report():
                return

    def _give_back(self) -> bool:
        """Cancel the last job that was submitted now, one that is queued if there is one; False if it is the only."""
        jobs = [
            (job, (cell, entry.stage))
            for entry in self.entries
            for job, cell in zip(entry.jobs, entry.cells, strict=True)
        ]
        if len(jobs) < 2:
            return False
        known = known_states(self._recipe.output, self._submissions, [job for job, _ in jobs])
        job, key = max(enumerate(jobs), key=lambda pair: (known[pair[1][0]].phase == "queued", pair[0]))[1]
        replace_jobs(self._submissions, [job])
        self._left.add(key)
        self.entries = [entry for entry in self.entries if entry.jobs != (job,)]
        return True

    def _submit_report(self) -> SubmittedArray | None:
        """Submit the report job after all live arrays of this study, replacing those that are still queued.

        One that also ends live cells which this recipe does not have, because it has other overrides, is left.
        """
        recipe, submissions = self._recipe, self._submissions
        known = known_states(recipe.output, submissions)
        live = [entry for entry in submissions.entries if any(known[job].is_live for job in entry.jobs)]
        others = {job.cell for job in orphans(submissions, known, {cell.id for cell in cells(recipe)})}
        reports = [entry for entry in live if entry.stage == REPORT and known[entry.jobs[0]].phase == "queued"]
        old = [entry.jobs[0] for entry in reports if not (others and others & _cells_of_report(entry))]
        replace_jobs(submissions, old)
        arrays = [entry.array for entry in live if entry.stage != REPORT and entry.array]
        entry = _entry(recipe, REPORT, (), ())
        resources = Resources(1, 1, 0, recipe.launch.cpus_per_task)
        options = parameters(recipe, resources, entry.name, self._code, depending("afterany", arrays))
        return self._recorded(entry, lambda: _submit_last(recipe, entry, options, self._last_job))


def replace_jobs(submissions: Submissions, jobs: Sequence[str]) -> None:
    """Cancel jobs whose work others are to do; recorded first, so that nobody takes them for cancelled by a person."""
    submissions.record_ended({job: JobState("CANCELLED", REPLACED) for job in jobs})
    commands.cancel(jobs)


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


def _submit_last(recipe: Recipe, entry: SubmittedArray, options: dict[str, Any], last_job: LastJob) -> str:
    """Submit the report job through submitit, and return SLURM's id of it."""
    from harness.launch.slurm.executor import NamedExecutor

    executor = NamedExecutor(folder=entry.folder)
    executor.update_parameters(**options, use_srun=False)  # a job step cannot submit jobs
    return str(executor.submit(last_job, recipe.model_dump_json()).job_id)


def _cells_of_report(entry: SubmittedArray) -> set[str]:
    """The cells of the recipe that a report job is for; none if that cannot be read."""
    text = recipe_of_report(Path(entry.folder))
    try:
        return {cell.id for cell in cells(Recipe.model_validate_json(text, strict=False))} if text else set()
    except ValueError:  # of another version
        return set()
