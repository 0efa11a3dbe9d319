"""The tasks of a stage: the whole stage, or one share of an embedding."""

from __future__ import annotations

from harness.embed.parts import WHOLE, JobShare
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork
from harness.storage import ledger
from harness.storage.ledger import STAGES, Stage

EMBED: Stage = "embed"


def task_name(stage: Stage, share: JobShare = WHOLE) -> str:
    """The name of a task: `train`, or `embed.3-of-8` for one job's share."""
    return stage if share == WHOLE else f"{stage}.{share.number}-of-{share.count}"


def read_task(task: str) -> tuple[Stage, JobShare]:
    """The stage of a task, and which share of it.

    Raises:
        ValueError: not the name of a task.
    """
    name, _, share = task.partition(".")
    number, _, count = share.partition("-of-")
    if name not in STAGES or (share and not (number.isdigit() and count.isdigit())):
        raise ValueError(f"{task!r} is neither a stage nor a job share, such as {task_name(EMBED, JobShare(3, 8))!r}")
    return name, JobShare(int(number), int(count)) if share else WHOLE


def stage_tasks(recipe: Recipe, stage: Stage) -> tuple[str, ...]:
    """The tasks of a stage, one for each job."""
    count = recipe.launch.embed_jobs if stage == EMBED else 1
    return tuple(task_name(stage, JobShare(number, count)) for number in range(count))


def missing_tasks(recipe: Recipe, work: CellWork) -> list[str]:
    """The tasks of a cell's missing stages, those that are done too."""
    return [task for stage in work.missing for task in stage_tasks(recipe, stage)]


def pending_tasks(recipe: Recipe, work: CellWork) -> dict[Stage, tuple[str, ...]]:
    """The tasks that are not done, for each missing stage of a cell.

    An empty tuple means that every share is done and the parts are not joined yet.
    """
    pending: dict[Stage, tuple[str, ...]] = {}
    for stage in work.missing:
        tasks = stage_tasks(recipe, stage)
        pending[stage] = tasks if len(tasks) == 1 else tuple(task for task in tasks if not _is_done(recipe, work, task))
    return pending


def _is_done(recipe: Recipe, work: CellWork, task: str) -> bool:
    row = ledger.read(recipe.output, work.cell.id, task)
    return row is not None and row.fingerprint == work.fingerprints[EMBED]
