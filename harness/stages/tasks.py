"""The tasks of a stage: the whole stage, or one share of an embedding."""

from __future__ import annotations

from harness.embed.parts import WHOLE, JobShare
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork
from harness.storage import ledger
from harness.storage.ledger import STAGES, Stage

EMBED: Stage = "embed"


def task_name(stage: Stage, share: JobShare = WHOLE) -> str:
    """What a job does, as one word."""
    return stage if share == WHOLE else f"{stage}.{share.number}-of-{share.count}"


def read_task(task: str) -> tuple[Stage, JobShare]:
    """The stage of a piece, and which element of it.

    Raises:
        ValueError: no piece of ours.
    """
    name, _, which = task.partition(".")
    number, _, count = which.partition("-of-")
    if name not in STAGES or (which and not (number.isdigit() and count.isdigit())):
        raise ValueError(f"{task!r} is no stage, nor an element of one, as in {task_name(EMBED, JobShare(3, 8))!r}")
    return name, JobShare(int(number), int(count)) if which else WHOLE


def stage_tasks(recipe: Recipe, stage: Stage) -> tuple[str, ...]:
    """The jobs that a stage of a cell takes."""
    count = recipe.launch.embed_jobs if stage == EMBED else 1
    return tuple(task_name(stage, JobShare(number, count)) for number in range(count))


def pending_tasks(recipe: Recipe, work: CellWork) -> dict[Stage, tuple[str, ...]]:
    """The pieces that are yet to be done of each stage that a cell lacks.

    None of them where every element is done and their parts are not put together yet.
    """
    found: dict[Stage, tuple[str, ...]] = {}
    for stage in work.missing:
        every = stage_tasks(recipe, stage)
        found[stage] = every if len(every) == 1 else tuple(one for one in every if not _is_done(recipe, work, one))
    return found


def _is_done(recipe: Recipe, work: CellWork, task: str) -> bool:
    row = ledger.read(recipe.output, work.cell.id, task)
    return row is not None and row.fingerprint == work.fingerprints[EMBED]
