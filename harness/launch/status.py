"""The status of every grid cell of a study: a row each, from the ledger, the submissions, SLURM and the train logs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.grid.cell import Cell
from harness.grid.cell_folder import CELL_LOCK, TRAIN_LOG, cell_folder
from harness.grid.cells import cells
from harness.launch.cell_status import ORPHAN, RESUMED, WORST_FIRST, CellStatus, State
from harness.launch.local.record import Change, last_changes
from harness.launch.owner import SWEEP_LOCK
from harness.launch.slurm.book.entries import Key, Submitted
from harness.launch.slurm.book.evidence import known_states, last_known_states
from harness.launch.slurm.book.lines import Cancelled
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.cancel import LiveJob, orphans
from harness.launch.slurm.commands import BRIEF, SlurmError
from harness.launch.slurm.failures import cause_of
from harness.launch.slurm.heartbeat import heartbeat, read_beat
from harness.launch.slurm.job_states import NAMES, NEVER, UNKNOWN, JobState
from harness.recipe.axes import point_name
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork, missing_of_all
from harness.stages.tasks import pending_tasks, stage_tasks
from harness.storage import ledger
from harness.storage.health.sessions import read_sessions, read_spent, spent
from harness.storage.health.stall import read_stall
from harness.storage.ledger import LedgerRow
from harness.storage.locks import holder, user_name
from harness.storage.train_log import last_row

STOPPED = "its sweep has ended; run goes on"


def statuses(recipe: Recipe) -> list[CellStatus]:
    """The status of every cell, in the order of the grid, then live jobs of cells that the recipe does not have.

    If SLURM does not answer, states of jobs are those of its last answer, and `as_of` says when that was.
    """
    submissions = Submissions(recipe.output)
    for text in submissions.damage:
        print(f"note: {text}; the next run, resume or cancel repairs it", file=sys.stderr, flush=True)
    is_answering = _look_up(submissions)
    latest = submissions.latest()
    work_items = missing_of_all(recipe, cells(recipe))
    next_jobs = [_next_jobs(recipe, work, latest) for work in work_items]
    grid = {work.cell.id for work in work_items}
    asked = {submitted.job for jobs in next_jobs for submitted in jobs.values() if submitted}
    asked |= {submitted.job for (cell, _), submitted in latest.items() if cell not in grid} - submissions.ended.keys()
    known, as_of = _known(recipe, submissions, sorted(asked), is_answering)
    rows = [_cell_status(recipe, work, jobs, known) for work, jobs in zip(work_items, next_jobs, strict=True)]
    rows = _at_home(recipe, work_items, rows)
    rows = [_if_cancelled(row, submissions.cancelled.get(row.cell)) for row in rows]
    rows = _with_outlooks(recipe, work_items, _after_their_starts(work_items, rows))
    rows += [_orphan(job) for job in orphans(submissions, known, grid)]
    return rows if as_of is None else [replace(row, as_of=as_of) for row in rows]


def _look_up(submissions: Submissions) -> bool:
    """Find the jobs that SLURM took unasked; False if it does not answer."""
    try:
        submissions.look_up(BRIEF)
    except SlurmError as error:
        print(f"note: {error}", file=sys.stderr, flush=True)
        return False
    return True


def _known(
    recipe: Recipe, submissions: Submissions, jobs: Sequence[str], is_answering: bool
) -> tuple[dict[str, JobState], str | None]:
    """The states of jobs; where SLURM does not answer, the last known ones, and as of when."""
    if is_answering:
        try:
            return known_states(recipe.output, submissions, jobs, BRIEF), None
        except SlurmError as error:
            print(f"note: {error}", file=sys.stderr, flush=True)
    known, as_of = last_known_states(recipe.output, submissions, jobs)
    return known, as_of.isoformat(sep=" ", timespec="seconds")


def _at_home(recipe: Recipe, work_items: Sequence[CellWork], rows: Sequence[CellStatus]) -> list[CellStatus]:
    """The same, where a cell that has no job is what the last sweep on this machine says of it."""
    changes = last_changes(recipe.output)
    is_swept = bool(changes) and holder(recipe.output / SWEEP_LOCK) is not None
    return [
        _local_status(recipe, work, row, changes[row.cell], is_swept)
        if row.state == "missing" and row.cell in changes
        else row
        for work, row in zip(work_items, rows, strict=True)
    ]


def _local_status(recipe: Recipe, work: CellWork, row: CellStatus, change: Change, is_swept: bool) -> CellStatus:
    """The status of a cell by what happened to it last on this machine; `is_swept`: a sweep is running here."""
    if change.phase == "failed":
        return replace(row, state="failed", reason=f"{change.reason}; run tries it again")
    if change.phase not in ("queued", "running"):
        return row
    if change.phase == "queued":
        return replace(row, state="queued") if is_swept else replace(row, state="stopped", reason=STOPPED)
    running = _running(recipe, work.cell, row.stage, None, 0)
    if is_swept:
        return running
    if (process := holder(cell_folder(recipe, work.cell) / CELL_LOCK)) is not None:
        return replace(running, reason=f"its sweep has ended, and {process} goes on with it; {process.remedy}")
    reached = f" at step {running.step:,}" if running.step is not None else ""
    return replace(running, state="stopped", crops_per_second=None, eta_seconds=None, reason=f"{STOPPED}{reached}")


def _orphan(job: LiveJob) -> CellStatus:
    state: State = "queued" if job.state.phase == "queued" else "running"
    return CellStatus(job.cell, job.task, state, job.job, reason=ORPHAN, orphan=True)


def _if_cancelled(row: CellStatus, cancelled: Cancelled | None) -> CellStatus:
    """The same, unless the cell is recorded as cancelled. A job that runs is given time for a save (`KillWait`)."""
    if cancelled is None or row.state == "done":
        return row
    if row.state in ("running", "queued"):
        return replace(row, reason=f"{cancelled.text}; {'SLURM is ending its job' if row.job else 'it is ending'}")
    return replace(row, state="cancelled", reason=f"{cancelled.text}{RESUMED}")


def _with_outlooks(recipe: Recipe, work_items: Sequence[CellWork], rows: Sequence[CellStatus]) -> list[CellStatus]:
    """The same, with each cell's place on the axes, where the loss of one that trains will end, and why one stopped."""
    from harness.report.forecasts.live import outlooks

    seen = outlooks(recipe, [work.cell for work in work_items])
    stopped = [ledger.read(recipe.output, row.cell, "train") if row.state == "done" else None for row in rows]
    return [
        replace(
            row,
            axes=point_name(work.cell.point.coordinates()),
            outlook=seen.get(row.cell),
            reason=row.reason or _why_stopped(train),
            spent=read_spent(train.values) if train is not None else row.spent,
        )
        for row, train, work in zip(rows, stopped, work_items, strict=True)
    ]


def _why_stopped(train: LedgerRow | None) -> str:
    if train is None or train.stopped is None:
        return ""
    return f"stopped by launch.stop_when: {train.values['stopped'].get('evidence', '')}"


def _after_their_starts(work_items: Sequence[CellWork], rows: Sequence[CellStatus]) -> list[CellStatus]:
    """The same, where a cell that is not submitted because the one that it starts from failed says so.

    A cell comes after the one that it starts from.
    """
    known: dict[str, CellStatus] = {}
    for work, row in zip(work_items, rows, strict=True):
        start = known.get(work.cell.start.id) if work.cell.start is not None and "train" in work.missing else None
        if start is not None and start.stage == "train" and start.state in ("failed", "lost", "never", "cancelled"):
            how = "was cancelled" if start.state == "cancelled" else "failed"
            reason = (
                start.reason if start.reason.startswith("starts from") else f"starts from {start.cell}, which {how}"
            )
            row = replace(row, state="never", reason=reason) if row.state in ("missing", "never", "failed") else row
        known[work.cell.id] = row
    return list(known.values())


def _next_jobs(recipe: Recipe, work: CellWork, latest: Mapping[Key, Submitted]) -> dict[str, Submitted | None]:
    """The pending tasks of a cell's first missing stage, all of them if none is pending, with their newest jobs."""
    stage, tasks = next(iter(pending_tasks(recipe, work).items()), (None, ()))
    tasks = tasks or (stage_tasks(recipe, stage) if stage else ())
    return {task: latest.get((work.cell.id, task)) for task in tasks}


def _cell_status(
    recipe: Recipe, work: CellWork, jobs: dict[str, Submitted | None], known: dict[str, JobState]
) -> CellStatus:
    """The cell's status; if several jobs share its stage, that of the worst one, and how many are done."""
    if not work.missing:
        return CellStatus(work.cell.id, "", "done")
    rows = [_task_status(recipe, work.cell, task, submitted, known) for task, submitted in jobs.items()]
    worst = min(rows, key=lambda row: WORST_FIRST.index(row.state))
    stage = work.missing[0]
    tasks, pending = stage_tasks(recipe, stage), pending_tasks(recipe, work)[stage]
    if not pending:
        worst = next((row for row in rows if row.state == "running"), CellStatus(work.cell.id, stage, "missing"))
        worst = replace(worst, reason="its parts are to be joined")
    return worst if len(tasks) == 1 else replace(worst, stage=stage, step=len(tasks) - len(pending), steps=len(tasks))


def _task_status(
    recipe: Recipe, cell: Cell, task: str, submitted: Submitted | None, known: dict[str, JobState]
) -> CellStatus:
    if submitted is None:
        return CellStatus(cell.id, task, "missing")
    folder, job = cell_folder(recipe, cell), known[submitted.job]
    beat = read_beat(heartbeat(folder, task), submitted.job)
    restarts = beat.restart
    if job.phase == "running":
        stall = read_stall(folder)
        odd = "" if job.state in NAMES else f"squeue lists it as {job.state!r}"
        reason = "; ".join(filter(None, [odd, stall.in_words if stall else ""]))
        return replace(_running(recipe, cell, task, submitted.job, restarts), reason=reason)
    if job.is_live:
        return CellStatus(cell.id, task, "queued", submitted.job, restarts=restarts, reason=job.reason)
    if job == UNKNOWN and submitted.user not in ("", user_name()):
        reason = f"SLURM does not show jobs of {submitted.user} to {user_name()}"
        return CellStatus(cell.id, task, "lost", submitted.job, restarts=restarts, reason=reason)
    failure = cause_of(folder, task, submitted, job)
    state: State = "lost" if job == UNKNOWN else "never" if job.reason == NEVER else "failed"
    state = "cancelled" if failure.verdict == "cancelled" else state
    hint = {"transient": "", "permanent": "; resume --force tries again", "cancelled": RESUMED}[failure.verdict]
    return CellStatus(cell.id, task, state, submitted.job, restarts=restarts, reason=failure.text + hint)


def _running(recipe: Recipe, cell: Cell, task: str, job: str | None, restarts: int) -> CellStatus:
    folder = cell_folder(recipe, cell)
    row = last_row(folder / TRAIN_LOG, "train") if task == "train" else None
    if row is None or not row.get("progress") or row["step"] <= _first_step(recipe, cell):
        return CellStatus(cell.id, task, "running", job, restarts=restarts)
    steps = round(row["step"] / row["progress"])
    batch = cell.training.batch if cell.training else 0
    rate = row.get("crops_per_second")
    eta = row.get("seconds_left", (steps - row["step"]) * batch / rate if rate else None)
    hours = spent(read_sessions(folder, [TRAIN_LOG]), is_running=True)
    return CellStatus(cell.id, task, "running", job, row["step"], steps, rate, eta, restarts, spent=hours)


def _first_step(recipe: Recipe, cell: Cell) -> int:
    """The step at which a cell begins; rows of its log up to that are the trunk's, with the progress of that."""
    start = None if cell.start is None or cell.begins_run else ledger.read(recipe.output, cell.start.id, "train")
    steps = start.values.get("steps") if start is not None else None
    return steps if isinstance(steps, int) else 0
