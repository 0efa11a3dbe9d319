"""The status of every grid cell of a study: a row each, from the ledger, the submissions, SLURM and the train logs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Literal

from analysis.figures.text_table import text_table
from analysis.forecast.outlook import Outlook
from harness.grid.cell import Cell
from harness.grid.cell_folder import TRAIN_LOG, cell_folder
from harness.grid.cells import cells
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
from harness.storage.health.sessions import Spent, read_sessions, read_spent, spent
from harness.storage.health.slow_nodes import read_slow_nodes
from harness.storage.health.stall import read_stall
from harness.storage.ledger import LedgerRow
from harness.storage.locks import user_name
from harness.storage.train_log import last_row

State = Literal["done", "queued", "running", "failed", "lost", "never", "cancelled", "missing"]
WORST_FIRST: tuple[State, ...] = ("failed", "lost", "never", "cancelled", "missing", "running", "queued", "done")
ORPHAN = "the recipe does not have this cell: cancel --orphans ends its job"
RESUMED = "; resume submits it again"
LEFT = ("cell", "stage", "state", "reason")  # columns aligned to the left


@dataclass(frozen=True)
class CellStatus:
    """One cell: its first missing stage and the state of that. `never`: a job that it depends on failed."""

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
    axes: str = ""  # where the cell is on the grid's axes
    outlook: Outlook | None = None  # of a cell that has begun to train
    spent: Spent | None = None  # the hours of its training so far
    orphan: bool = False  # a live job of a cell that the recipe does not have
    as_of: str | None = None  # when SLURM last answered, in ISO 8601; None: now


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


def _orphan(job: LiveJob) -> CellStatus:
    state: State = "queued" if job.state.phase == "queued" else "running"
    return CellStatus(job.cell, job.task, state, job.job, reason=ORPHAN, orphan=True)


def _if_cancelled(row: CellStatus, cancelled: Cancelled | None) -> CellStatus:
    """The same, unless the cell is recorded as cancelled. A job that runs is given time for a save (`KillWait`)."""
    if cancelled is None or row.state == "done":
        return row
    if row.state in ("running", "queued"):
        return replace(row, reason=f"{cancelled.text}; SLURM is ending its job")
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


def _running(recipe: Recipe, cell: Cell, task: str, job: str, restarts: int) -> CellStatus:
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


def table(rows: Sequence[CellStatus]) -> str:
    """The statuses as text, and a count of each state."""
    own = [row for row in rows if not row.orphan]
    counts, with_axes = Counter(row.state for row in own), any(row.axes for row in rows)
    outlooks = any(row.outlook for row in rows)
    total = f"{len(own)} cells: " + ", ".join(f"{count} {state}" for state, count in counts.most_common())
    total += (
        f"; {len(rows) - len(own)} live jobs of cells that the recipe does not have" if len(rows) > len(own) else ""
    )
    hours = sum((row.spent for row in rows if row.spent), Spent())
    shown = [_texts(row, axes=with_axes, outlooks=outlooks, goodput=hours.goodput is not None) for row in rows]
    silence = [f"SLURM does not answer; as of {_clock(row.as_of)}" for row in rows[:1] if row.as_of]
    return "\n".join(filter(None, [*silence, text_table(shown, LEFT), total, hours.in_words]))


def _clock(as_of: str) -> str:
    """A time of today as `12:31`, of another day with its date."""
    at = datetime.fromisoformat(as_of)
    return f"{at:%H:%M}" if at.date() == datetime.now().astimezone().date() else f"{at:%Y-%m-%d %H:%M}"


def _texts(row: CellStatus, *, axes: bool, outlooks: bool, goodput: bool) -> dict[str, str]:
    """A cell's text by column."""
    return {
        "cell": row.cell,
        **({"axes": row.axes} if axes else {}),
        "stage": row.stage,
        "state": row.state,
        "step": f"{row.step:,}/{row.steps:,}" if row.step is not None else "",
        "crops/s": f"{row.crops_per_second:,.0f}" if row.crops_per_second is not None else "",
        "ETA": _duration(row.eta_seconds) if row.eta_seconds is not None else "",
        **({"final loss": _final_loss(row.outlook)} if outlooks else {}),
        **({"goodput": _share(row.spent)} if goodput else {}),
        "restarts": str(row.restarts or ""),
        "reason": "; ".join(filter(None, [row.reason, _doubt(row.outlook)])),
    }


def _share(spent: Spent | None) -> str:
    return "" if spent is None or spent.goodput is None else f"{spent.goodput:.0%}"


def _final_loss(seen: Outlook | None) -> str:
    """The median and 90% interval of the final loss."""
    return "" if seen is None or seen.final is None else f"{seen.final:.4g} [{seen.low:.4g}, {seen.high:.4g}]"


def _doubt(seen: Outlook | None) -> str:
    """The verdict with its evidence, where the run is in doubt."""
    doubtful = seen is not None and seen.verdict in ("diverging", "cannot reach the frontier")
    return f"{seen.verdict}: {seen.evidence}" if doubtful and seen is not None else ""


def slow_nodes(recipe: Recipe) -> list[str]:
    """A line for each node that a run found slow, and what to do about it."""
    excluded = recipe.launch.slurm.exclude_slow
    cure = "later submissions leave it out" if excluded else "launch.slurm.exclude_slow=true leaves it out from now on"
    return [
        f"{slow.text} ({slow.cell}, {datetime.fromtimestamp(slow.time):%Y-%m-%d %H:%M}); {cure}"
        for slow in read_slow_nodes(recipe.output)
    ]


def as_json(rows: Sequence[CellStatus]) -> str:
    """The statuses as a JSON list."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
