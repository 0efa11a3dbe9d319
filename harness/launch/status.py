"""Where every cell of a study stands: one row each, from the ledger, the job book, SLURM and the cells' own logs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.grid.cell_folder import cell_folder
from harness.grid.cells import Cell, cells
from harness.launch.slurm.failures import cause, first_failure
from harness.launch.slurm.heartbeat import BEAT_SECONDS, heartbeat
from harness.launch.slurm.job_states import UNKNOWN, JobState, states
from harness.launch.slurm.submissions import Key, Submissions, Submitted
from harness.recipe.schema import Recipe
from harness.stages import missing as stages
from harness.stages.missing import CellWork
from harness.stages.tasks import pending_tasks, stage_tasks
from harness.storage.train_log import last_row

State = Literal["done", "queued", "running", "failed", "lost", "never", "missing"]
WORST_FIRST: tuple[State, ...] = ("failed", "lost", "never", "missing", "running", "queued", "done")
SILENT_SECONDS = 10 * BEAT_SECONDS
COLUMNS = f"{'cell':<44}{'stage':<10}{'state':<9}{'step':>15}{'crops/s':>10}{'ETA':>9}{'restarts':>9}  reason"


@dataclass(frozen=True)
class CellStatus:
    """One cell: the stage it is at, and how that goes. `never`: what it waits for cannot happen any more."""

    cell: str
    stage: str
    state: State
    job: str | None = None
    step: int | None = None
    steps: int | None = None
    crops_per_second: float | None = None
    eta_seconds: float | None = None
    restarts: int = 0
    reason: str = ""


def statuses(recipe: Recipe) -> list[CellStatus]:
    """Every cell's status, in the order of the grid.

    Raises:
        SlurmError: there are jobs, and SLURM does not answer.
    """
    latest = Submissions(recipe.output).latest()
    work_items = [stages.missing_stages(recipe, cell) for cell in cells(recipe)]
    given = [_next_jobs(recipe, work, latest) for work in work_items]
    known = states([submitted.job for jobs in given for submitted in jobs.values() if submitted])
    return [_of_cell(recipe, work, jobs, known) for work, jobs in zip(work_items, given, strict=True)]


def _next_jobs(recipe: Recipe, work: CellWork, latest: dict[Key, Submitted]) -> dict[str, Submitted | None]:
    """The pieces of a cell's first missing stage that are yet to be done, or all of them, and their newest jobs."""
    stage, tasks = next(iter(pending_tasks(recipe, work).items()), (None, ()))
    tasks = tasks or (stage_tasks(recipe, stage) if stage else ())
    return {task: latest.get((work.cell.id, task)) for task in tasks}


def _of_cell(
    recipe: Recipe, work: CellWork, jobs: dict[str, Submitted | None], known: dict[str, JobState]
) -> CellStatus:
    """The cell's status; where several jobs share its stage, that of the one worst off, and how many are done."""
    if not work.missing:
        return CellStatus(work.cell.id, "", "done")
    found = [_status(recipe, work.cell, task, submitted, known) for task, submitted in jobs.items()]
    worst = min(found, key=lambda one: WORST_FIRST.index(one.state))
    stage = work.missing[0]
    every, left = stage_tasks(recipe, stage), pending_tasks(recipe, work)[stage]
    if not left:
        worst = next((one for one in found if one.state == "running"), CellStatus(work.cell.id, stage, "missing"))
        worst = replace(worst, reason="its parts are to be put together")
    return worst if len(every) == 1 else replace(worst, stage=stage, step=len(every) - len(left), steps=len(every))


def _status(
    recipe: Recipe, cell: Cell, task: str, submitted: Submitted | None, known: dict[str, JobState]
) -> CellStatus:
    if submitted is None:
        return CellStatus(cell.id, task, "missing")
    folder, job = cell_folder(recipe, cell), known[submitted.job]
    beat = _beat(heartbeat(folder, task), submitted.job)
    restarts = int(beat.get("restart", 0))
    if job.phase == "unknown" and _is_alive(beat):
        job = JobState("RUNNING")
    if job.phase == "running":
        return _running(cell, task, submitted.job, folder, restarts)
    if job.is_live:
        return CellStatus(cell.id, task, "queued", submitted.job, restarts=restarts, reason=job.reason)
    why = cause(job, first_failure(folder, task, submitted.attempt))
    state: State = "lost" if job == UNKNOWN else "failed"
    if job.reason == "DependencyNeverSatisfied":
        state = "never"
    retried = "" if why.verdict == "transient" else "; resume --force tries again"
    return CellStatus(cell.id, task, state, submitted.job, restarts=restarts, reason=why.text + retried)


def _running(cell: Cell, task: str, job: str, folder: Path, restarts: int) -> CellStatus:
    row = last_row(folder / "train.jsonl", "train") if task == "train" else None
    if row is None or not row["progress"]:
        return CellStatus(cell.id, task, "running", job, restarts=restarts)
    steps = round(row["step"] / row["progress"])
    batch = cell.training.batch if cell.training else 0
    rate = row["crops_per_second"]
    eta = (steps - row["step"]) * batch / rate if rate else None
    return CellStatus(cell.id, task, "running", job, row["step"], steps, rate, eta, restarts)


def _beat(path: Path, job: str) -> dict[str, Any]:
    """The last sign of life of a job, empty if it gave none."""
    try:
        beat: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return beat if beat.get("job") == job else {}


def _is_alive(beat: dict[str, Any]) -> bool:
    """Whether the job said so lately; all that is known on a cluster that keeps no account."""
    return time.time() - float(beat.get("time", 0.0)) < SILENT_SECONDS


def table(found: Sequence[CellStatus]) -> str:
    """The statuses as text, and their sum."""
    lines = [COLUMNS]
    for one in found:
        step = f"{one.step:,}/{one.steps:,}" if one.step is not None else ""
        rate = f"{one.crops_per_second:,.0f}" if one.crops_per_second is not None else ""
        eta = _duration(one.eta_seconds) if one.eta_seconds is not None else ""
        line = f"{one.cell:<44}{one.stage:<10}{one.state:<9}{step:>15}{rate:>10}{eta:>9}{one.restarts or '':>9}"
        lines.append(f"{line}  {one.reason}".rstrip())
    counts = Counter(one.state for one in found)
    lines.append(f"{len(found)} cells: " + ", ".join(f"{count} {state}" for state, count in counts.most_common()))
    return "\n".join(lines)


def as_json(found: Sequence[CellStatus]) -> str:
    """The statuses as a JSON list."""
    return json.dumps([asdict(one) for one in found], indent=1)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
