"""The tasks of a stage: the whole stage, or one share of an embedding."""

from __future__ import annotations

from harness.embed.parts import ALONE, Element
from harness.recipe.schema import Recipe
from harness.stages.missing import Work
from harness.storage import ledger
from harness.storage.ledger import STAGES, Stage

EMBED: Stage = "embed"


def piece_of(stage: Stage, element: Element = ALONE) -> str:
    """What a job does, as one word."""
    return stage if element == ALONE else f"{stage}.{element.number}-of-{element.count}"


def read_piece(piece: str) -> tuple[Stage, Element]:
    """The stage of a piece, and which element of it.

    Raises:
        ValueError: no piece of ours.
    """
    name, _, which = piece.partition(".")
    number, _, count = which.partition("-of-")
    if name not in STAGES or (which and not (number.isdigit() and count.isdigit())):
        raise ValueError(f"{piece!r} is no stage, nor an element of one, as in {piece_of(EMBED, Element(3, 8))!r}")
    return name, Element(int(number), int(count)) if which else ALONE


def pieces(recipe: Recipe, stage: Stage) -> tuple[str, ...]:
    """The jobs that a stage of a cell takes."""
    count = recipe.launch.embed_elements if stage == EMBED else 1
    return tuple(piece_of(stage, Element(number, count)) for number in range(count))


def undone(recipe: Recipe, work: Work) -> dict[Stage, tuple[str, ...]]:
    """The pieces that are yet to be done of each stage that a cell lacks.

    None of them where every element is done and their parts are not put together yet.
    """
    found: dict[Stage, tuple[str, ...]] = {}
    for stage in work.missing:
        every = pieces(recipe, stage)
        found[stage] = every if len(every) == 1 else tuple(one for one in every if not _is_done(recipe, work, one))
    return found


def _is_done(recipe: Recipe, work: Work, piece: str) -> bool:
    row = ledger.read(recipe.output, work.cell.id, piece)
    return row is not None and row.fingerprint == work.fingerprints[EMBED]
