"""Where every cell of a study stands: one row each, from the ledger, the job book, SLURM and the cells' own logs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from harness import stages
from harness.cluster.book import Book, Submitted
from harness.cluster.failures import cause, first_failure
from harness.cluster.jobs import BEAT_SECONDS, HEARTBEAT
from harness.cluster.states import UNKNOWN, JobState, states
from harness.grid import Cell, cells
from harness.recipe import Recipe
from harness.stages import Work
from harness.tail import last_row

State = Literal["done", "queued", "running", "failed", "lost", "never", "missing"]
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
    latest = Book(recipe.output).latest()
    works = [stages.todo(recipe, cell) for cell in cells(recipe)]
    of_cell = {work.cell.id: latest.get((work.cell.id, work.missing[0])) for work in works if work.missing}
    known = states([submitted.job for submitted in of_cell.values() if submitted])
    return [_status(recipe, work, of_cell.get(work.cell.id), known) for work in works]


def _status(recipe: Recipe, work: Work, submitted: Submitted | None, known: dict[str, JobState]) -> CellStatus:
    if not work.missing:
        return CellStatus(work.cell.id, "", "done")
    stage = work.missing[0]
    if submitted is None:
        return CellStatus(work.cell.id, stage, "missing")
    folder, job = stages.cell_folder(recipe, work.cell), known[submitted.job]
    restarts = _restarts(folder, submitted.job)
    if job.phase == "unknown" and _is_alive(folder, submitted.job):
        job = JobState("RUNNING")
    if job.phase == "running":
        return _running(work.cell, stage, submitted.job, folder, restarts)
    if job.is_live:
        return CellStatus(work.cell.id, stage, "queued", submitted.job, restarts=restarts, reason=job.reason)
    why = cause(job, first_failure(folder, stage, submitted.attempt))
    state: State = "lost" if job == UNKNOWN else "failed"
    if job.reason == "DependencyNeverSatisfied":
        state = "never"
    retried = "" if why.verdict == "passes" else "; resume --force tries again"
    return CellStatus(work.cell.id, stage, state, submitted.job, restarts=restarts, reason=why.text + retried)


def _running(cell: Cell, stage: str, job: str, folder: Path, restarts: int) -> CellStatus:
    row = last_row(folder / "train.jsonl", "train") if stage == "train" else None
    if row is None or not row["progress"]:
        return CellStatus(cell.id, stage, "running", job, restarts=restarts)
    steps = round(row["step"] / row["progress"])
    batch = cell.training.batch if cell.training else 0
    rate = row["crops_per_second"]
    eta = (steps - row["step"]) * batch / rate if rate else None
    return CellStatus(cell.id, stage, "running", job, row["step"], steps, rate, eta, restarts)


def _beat(folder: Path, job: str) -> dict[str, float]:
    try:
        beat = json.loads((folder / HEARTBEAT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return beat if beat.get("job") == job else {}


def _restarts(folder: Path, job: str) -> int:
    return int(_beat(folder, job).get("restart", 0))


def _is_alive(folder: Path, job: str) -> bool:
    """Whether the job said so lately; all that is known on a cluster that keeps no account."""
    return time.time() - _beat(folder, job).get("time", 0.0) < SILENT_SECONDS


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
