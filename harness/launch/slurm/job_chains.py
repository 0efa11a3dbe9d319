"""What of a grid cell is to be submitted, given what is missing of it and which of its jobs are live."""

from __future__ import annotations

from dataclasses import dataclass

from harness.grid.cell_folder import cell_folder
from harness.grid.cells import Cell
from harness.launch.slurm.failures import Cause, cause, first_failure
from harness.launch.slurm.job_states import JobState
from harness.launch.slurm.submissions import Submitted
from harness.recipe.schema import Recipe
from harness.stages import tasks
from harness.stages.missing import Work
from harness.stages.tasks import read_piece
from harness.storage.ledger import Stage


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


def decide(
    recipe: Recipe, work: Work, jobs: dict[str, Submitted], known: dict[str, JobState], force: bool
) -> Chain | Held | None:
    """What to do about a cell: submit from its first stage that live jobs do not cover, hold it back, or nothing."""
    live = {piece: one.job for piece, one in jobs.items() if known[one.job].is_live}
    undone = tasks.undone(recipe, work)
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
    known_pieces = {piece for stage in undone for piece in tasks.pieces(recipe, stage)}
    outdated = {piece for piece in live if piece not in known_pieces and read_piece(piece)[0] in work.missing[first:]}
    later = {piece for pieces in wanted[first + 1 :] for piece in pieces}
    replaced = [live[piece] for piece in live if piece in outdated | later]
    return Chain(work.cell, (lacking, *wanted[first + 1 :]), tuple(after), tuple(beside), tuple(replaced))


def _putting_together(recipe: Recipe, stage: Stage, live: dict[str, str]) -> tuple[str, ...]:
    """All elements are done and their stage is not: one that lives is at it; else the first, run again, will be."""
    every = tasks.pieces(recipe, stage)
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
