"""Missing work → job arrays: train → embed → evaluate as dependent arrays, and one report after all.

Cells whose stages ask for the same shapes go together, element i of one array waiting for element i of the one before.
What is queued or running is left alone; what failed for a reason that passes is submitted again.
"""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cluster import commands
from harness.cluster.book import Book, Entry, Key, Submitted
from harness.cluster.commands import SlurmError
from harness.cluster.failures import Cause, cause, first_failure
from harness.cluster.jobs import report_and_resume, run_stage
from harness.cluster.shapes import Shape, arguments, field_of, parameters, shape
from harness.cluster.snapshot import snapshot
from harness.cluster.states import JobState, states
from harness.grid import Cell
from harness.ledger import Stage
from harness.recipe import Recipe
from harness.stages import Work, cell_folder

REPORT = "report"


@dataclass(frozen=True)
class Chain:
    """A cell's stages that are to be submitted, the job the first of them waits for, and jobs that they replace."""

    cell: Cell
    stages: tuple[Stage, ...]
    after: str | None
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class Held:
    """A cell that is not submitted again, and why."""

    cell: Cell
    stage: Stage
    cause: Cause


@dataclass(frozen=True)
class Submission:
    """What one call submitted, and what it held back."""

    entries: tuple[Entry, ...]
    held: tuple[Held, ...]


def submit(recipe: Recipe, works: Sequence[Work], force: bool = False) -> Submission:
    """Submit what is missing and neither queued nor running; `force` tries again what failed for a reason that stays.

    Two calls at once, from anywhere that sees the same files, submit each cell once: the second waits for the first.

    Raises:
        SlurmError: SLURM does not answer, or refuses a shape; in that case nothing was submitted.
    """
    book = Book(recipe.output)
    with book.locked():
        latest = book.latest()
        known = states([submitted.job for submitted in latest.values()])
        chains: list[Chain] = []
        held: list[Held] = []
        for work in works:
            found = _decide(recipe, work, latest, known, force)
            if isinstance(found, Chain):
                chains.append(found)
            elif found is not None:
                held.append(found)
        _ask_for_refusals(recipe, chains)
        _adjust_throttles(recipe, book, known)
        commands.cancel([job for chain in chains for job in chain.replaced])
        entries = _submit_chains(recipe, book, chains, latest)
    return Submission(tuple(entries), tuple(held))


def _decide(
    recipe: Recipe, work: Work, latest: dict[Key, Submitted], known: dict[str, JobState], force: bool
) -> Chain | Held | None:
    """What to do about a cell: submit from its first stage that no live job covers, hold it back, or nothing."""
    if not work.missing:
        return None
    jobs = [latest.get((work.cell.id, stage)) for stage in work.missing]
    is_live = [job is not None and known[job.job].is_live for job in jobs]
    if all(is_live):
        return None
    first = is_live.index(False)
    stage, dead = work.missing[first], jobs[first]
    before = jobs[first - 1] if first else None
    if dead is not None:
        why = cause(known[dead.job], first_failure(cell_folder(recipe, work.cell), stage, dead.attempt))
        if why.verdict == "stays" and not force:
            return Held(work.cell, stage, why)
        if dead.attempt >= recipe.launch.slurm.attempts and not force and known[dead.job].state != "CANCELLED":
            return Held(work.cell, stage, Cause(f"{why.text}; {dead.attempt} attempts", "stays"))
    replaced = [job.job for job, live in zip(jobs[first + 1 :], is_live[first + 1 :], strict=True) if job and live]
    return Chain(work.cell, work.missing[first:], before.job if before else None, tuple(replaced))


def _ask_for_refusals(recipe: Recipe, chains: Sequence[Chain]) -> None:
    wanted = {shape(recipe.launch, chain.cell, stage) for chain in chains for stage in chain.stages}
    slurm = recipe.launch.slurm
    longest = commands.longest_minutes(slurm.partition) if wanted else math.inf
    if 60 * slurm.hours > longest:
        where = slurm.partition or "the default partition"
        raise SlurmError(f"jobs of {where} end after {longest / 60:g} hours: set launch.slurm.hours to that or less")
    for one in sorted(wanted):
        refused = commands.refusal(arguments(recipe, one))
        if refused is not None:
            raise SlurmError(
                f"SLURM refuses jobs of {one}:\n  {refused}\n"
                f"set {field_of(refused)} in the recipe; nothing was submitted"
            )


def _adjust_throttles(recipe: Recipe, book: Book, known: dict[str, JobState]) -> None:
    """Give arrays that still wait the throttle that the recipe has now."""
    for entry in list(book.entries):
        waits = any(known[job].phase == "queued" for job in entry.jobs if job in known)
        if len(entry.cells) > 1 and waits and entry.array and entry.throttle != recipe.launch.parallel:
            commands.throttle(entry.array, recipe.launch.parallel)
            book.set_throttle(entry.name, recipe.launch.parallel)


def _submit_chains(recipe: Recipe, book: Book, chains: Sequence[Chain], latest: dict[Key, Submitted]) -> list[Entry]:
    """Submit chains grouped into arrays, and the report after them and after all that is still under way."""
    if not chains:
        return []
    code = snapshot(recipe.output)
    largest = commands.max_array_size() - 1
    entries: list[Entry] = []
    for group in _groups(recipe, chains):
        for start in range(0, len(group), largest):
            entries += _submit_group(recipe, book, group[start : start + largest], latest, code)
    entries.append(_submit_report(recipe, book, code))
    return entries


def _groups(recipe: Recipe, chains: Sequence[Chain]) -> list[list[Chain]]:
    """Chains that can share arrays: the same stages in the same shapes, waiting for the same job or for none."""

    def key(chain: Chain) -> tuple[str, tuple[str, ...], tuple[Shape, ...]]:
        shapes = tuple(shape(recipe.launch, chain.cell, stage) for stage in chain.stages)
        return chain.after or "", chain.stages, shapes

    return [list(group) for _, group in itertools.groupby(sorted(chains, key=key), key)]


def _submit_group(
    recipe: Recipe, book: Book, group: Sequence[Chain], latest: dict[Key, Submitted], code: Path
) -> list[Entry]:
    cells = [chain.cell for chain in group]
    dependency = f"afterok:{group[0].after}" if group[0].after else None
    entries = []
    for stage in group[0].stages:
        before = (latest.get((cell.id, stage)) for cell in cells)
        attempts = tuple(submitted.attempt + 1 if submitted else 1 for submitted in before)
        entry = _entry(recipe, stage, tuple(cell.id for cell in cells), attempts)
        book.plan(entry)
        wanted = parameters(recipe, shape(recipe.launch, cells[0], stage), entry.name, code, dependency)
        array = _submit(recipe, entry, wanted)
        book.submitted(entry.name, array)
        dependency = f"{'aftercorr' if len(cells) > 1 else 'afterok'}:{array}"
        entries.append(Entry(**{**vars(entry), "array": array}))
    return entries


def _entry(recipe: Recipe, stage: str, cells: tuple[str, ...], attempts: tuple[int, ...]) -> Entry:
    name = f"{recipe.name}-{stage}-{uuid.uuid4().hex[:8]}"
    return Entry(name, stage, cells, attempts, str(recipe.output.resolve() / "jobs" / name), recipe.launch.parallel)


def _submit(recipe: Recipe, entry: Entry, wanted: dict[str, Any]) -> str:
    """Hand an array to SLURM through submitit, and return its id."""
    import submitit

    executor = submitit.SlurmExecutor(folder=entry.folder)
    executor.update_parameters(**wanted)
    count, text = len(entry.cells), recipe.model_dump_json()
    jobs = executor.map_array(run_stage, [text] * count, entry.cells, [entry.stage] * count, entry.attempts)
    return str(jobs[0].job_id).split("_")[0]


def _submit_report(recipe: Recipe, book: Book, code: Path) -> Entry:
    """One job after all arrays of this study, in place of the one that waited before."""
    import submitit

    known = states([job for entry in book.entries if entry.array for job in entry.jobs])
    is_live = {entry.name: any(known[job].is_live for job in entry.jobs) for entry in book.entries if entry.array}
    live = [entry for entry in book.entries if is_live.get(entry.name)]
    waiting = [
        entry.array for entry in live if entry.stage == REPORT and entry.array and known[entry.array].phase == "queued"
    ]
    commands.cancel(waiting)
    arrays = [entry.array for entry in live if entry.stage != REPORT and entry.array]
    entry = _entry(recipe, REPORT, (), ())
    book.plan(entry)
    wanted = parameters(recipe, Shape(1, 1, 0, recipe.launch.cpus_per_task), entry.name, code, None)
    wanted["additional_parameters"] = {"requeue": True, "dependency": f"afterany:{':'.join(arrays)}"}
    executor = submitit.SlurmExecutor(folder=entry.folder)
    executor.update_parameters(**wanted, use_srun=False)  # a step could not submit jobs
    array = str(executor.submit(report_and_resume, recipe.model_dump_json()).job_id)
    book.submitted(entry.name, array)
    return Entry(**{**vars(entry), "array": array})


def cancel(recipe: Recipe, chosen: Sequence[str] | None = None) -> int:
    """Cancel this study's live jobs, or those of the cells chosen; return how many. Their checkpoints stay.

    The report is cancelled first: it would otherwise find everything over and submit it again.
    """
    book = Book(recipe.output)
    with book.locked():
        known = states([job for entry in book.entries for job in entry.jobs])
        if chosen is None:
            reports = [job for entry in book.entries if entry.stage == REPORT for job in entry.jobs]
            commands.cancel([job for job in reports if known[job].is_live])
        jobs = [
            entry.job(position)
            for entry in book.entries
            for position, cell in enumerate(entry.cells)
            if chosen is None or cell in chosen
        ]
        live = [job for job in jobs if known[job].is_live]
        commands.cancel(live)
    return len(live)
