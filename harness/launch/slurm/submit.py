"""Missing work → job arrays: train → embed → evaluate as dependent arrays, and one report after all.

Cells whose stages ask for the same shapes go together, element i of one array waiting for element i of the one before.
Where several jobs share the embedding of a cell (`shared_embedding`), there is an array for each of them. What is
queued or running is left alone; what failed for a reason that passes is submitted again.
"""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.grid.cells import Cell
from harness.launch.slurm import commands
from harness.launch.slurm.code_snapshot import snapshot
from harness.launch.slurm.commands import SlurmError
from harness.launch.slurm.failures import Cause, cause, first_failure
from harness.launch.slurm.job import report_and_resume, run_piece
from harness.launch.slurm.job_states import JobState, states
from harness.launch.slurm.options import Shape, arguments, field_of, parameters, shape
from harness.launch.slurm.submissions import Book, Entry, Key, Submitted
from harness.recipe.schema import Recipe
from harness.stages import shared_embedding as elements
from harness.stages.missing import Work, cell_folder
from harness.stages.shared_embedding import read_piece
from harness.storage.ledger import Stage

REPORT = "report"


@dataclass(frozen=True)
class Chain:
    """What of a cell is to be submitted.

    Attributes:
        pieces: of each stage in turn, those that no live job covers.
        after: live jobs that the first stage waits for.
        beside: live jobs that cover the rest of the first stage; the second waits for them too.
        replaced: live jobs that these take the place of.
    """

    cell: Cell
    pieces: tuple[tuple[str, ...], ...]
    after: tuple[str, ...]
    beside: tuple[str, ...]
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class Held:
    """A cell that is not submitted again, and why."""

    cell: Cell
    piece: str
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
        of_cell: dict[str, dict[str, Submitted]] = {}
        for (cell, piece), submitted in latest.items():
            of_cell.setdefault(cell, {})[piece] = submitted
        known = states([submitted.job for submitted in latest.values()])
        chains: list[Chain] = []
        held: list[Held] = []
        for work in works:
            found = _decide(recipe, work, of_cell.get(work.cell.id, {}), known, force)
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
    recipe: Recipe, work: Work, jobs: dict[str, Submitted], known: dict[str, JobState], force: bool
) -> Chain | Held | None:
    """What to do about a cell: submit from its first stage that live jobs do not cover, hold it back, or nothing."""
    live = {piece: one.job for piece, one in jobs.items() if known[one.job].is_live}
    undone = elements.undone(recipe, work)
    wanted = [pieces or _putting_together(recipe, stage, live) for stage, pieces in undone.items()]
    first = next((place for place, pieces in enumerate(wanted) if not live.keys() >= set(pieces)), None)
    if first is None:
        return None
    lacking = tuple(piece for piece in wanted[first] if piece not in live)
    for piece in lacking:
        why = _holds_back(recipe, work.cell, piece, jobs.get(piece), known)
        if why is not None and not force:
            return Held(work.cell, piece, why)
    after = [live[piece] for piece in (wanted[first - 1] if first else ())]
    beside = [live[piece] for piece in wanted[first] if piece in live]
    known_pieces = {piece for stage in undone for piece in elements.pieces(recipe, stage)}
    outdated = {piece for piece in live if piece not in known_pieces and read_piece(piece)[0] in work.missing[first:]}
    later = {piece for pieces in wanted[first + 1 :] for piece in pieces}
    replaced = [live[piece] for piece in live if piece in outdated | later]
    return Chain(work.cell, (lacking, *wanted[first + 1 :]), tuple(after), tuple(beside), tuple(replaced))


def _putting_together(recipe: Recipe, stage: Stage, live: dict[str, str]) -> tuple[str, ...]:
    """All elements are done and their stage is not: one that lives is at it; else the first, run again, will be."""
    every = elements.pieces(recipe, stage)
    return tuple(piece for piece in every if piece in live)[:1] or every[:1]


def _holds_back(
    recipe: Recipe, cell: Cell, piece: str, dead: Submitted | None, known: dict[str, JobState]
) -> Cause | None:
    """Why a piece whose job has ended without its result is not to be submitted again; None if it is."""
    if dead is None:
        return None
    why = cause(known[dead.job], first_failure(cell_folder(recipe, cell), piece, dead.attempt))
    if why.verdict == "stays":
        return why
    if dead.attempt >= recipe.launch.slurm.attempts and known[dead.job].state != "CANCELLED":
        return Cause(f"{why.text}; {dead.attempt} attempts", "stays")
    return None


def _ask_for_refusals(recipe: Recipe, chains: Sequence[Chain]) -> None:
    wanted = {_shape(recipe, chain.cell, pieces[0]) for chain in chains for pieces in chain.pieces}
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
    """Chains that can share arrays: the same pieces in the same shapes, waiting for the same jobs or for none."""

    def key(chain: Chain) -> tuple[Any, ...]:
        shapes = tuple(_shape(recipe, chain.cell, pieces[0]) for pieces in chain.pieces)
        return chain.after, chain.beside, chain.pieces, shapes

    return [list(group) for _, group in itertools.groupby(sorted(chains, key=key), key)]


def _shape(recipe: Recipe, cell: Cell, piece: str) -> Shape:
    return shape(recipe.launch, cell, read_piece(piece)[0])


def _submit_group(
    recipe: Recipe, book: Book, group: Sequence[Chain], latest: dict[Key, Submitted], code: Path
) -> list[Entry]:
    chain, cells = group[0], [chain.cell for chain in group]
    dependency = _once("afterok", chain.after)
    entries: list[Entry] = []
    for place, pieces in enumerate(chain.pieces):
        arrays = []
        for piece in pieces:
            entry = _submit_array(recipe, book, piece, cells, latest, code, dependency)
            arrays.append(entry.array or "")
            entries.append(entry)
        waits = [_once("aftercorr" if len(cells) > 1 else "afterok", arrays)]
        waits += [_once("afterok", chain.beside)] if place == 0 else []
        dependency = ",".join(one for one in waits if one)
    return entries


def _submit_array(
    recipe: Recipe, book: Book, piece: str, cells: Sequence[Cell], latest: dict[Key, Submitted], code: Path,
    dependency: str | None,
) -> Entry:  # fmt: skip
    """Submit one piece of each of these cells, and note it in the book before and after."""
    before = (latest.get((cell.id, piece)) for cell in cells)
    attempts = tuple(submitted.attempt + 1 if submitted else 1 for submitted in before)
    entry = _entry(recipe, piece, tuple(cell.id for cell in cells), attempts)
    book.plan(entry)
    wanted = parameters(recipe, _shape(recipe, cells[0], piece), entry.name, code, dependency)
    array = _submit(recipe, entry, wanted)
    book.submitted(entry.name, array)
    return Entry(**{**vars(entry), "array": array})


def _once(kind: str, jobs: Sequence[str]) -> str | None:
    """SLURM's word for waiting until all of these have ended well."""
    return f"{kind}:{':'.join(jobs)}" if jobs else None


def _entry(recipe: Recipe, stage: str, cells: tuple[str, ...], attempts: tuple[int, ...]) -> Entry:
    name = f"{recipe.name}-{stage}-{uuid.uuid4().hex[:8]}"
    return Entry(name, stage, cells, attempts, str(recipe.output.resolve() / "jobs" / name), recipe.launch.parallel)


def _submit(recipe: Recipe, entry: Entry, wanted: dict[str, Any]) -> str:
    """Hand an array to SLURM through submitit, and return its id."""
    import submitit

    executor = submitit.SlurmExecutor(folder=entry.folder)
    executor.update_parameters(**wanted)
    count, text = len(entry.cells), recipe.model_dump_json()
    jobs = executor.map_array(run_piece, [text] * count, entry.cells, [entry.stage] * count, entry.attempts)
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
