"""Embed a grid cell with several SLURM jobs that do not communicate: each embeds its share of the parts.

Submissions, fences, failures and the ledger identify a job by its task: a stage (`train`), or one job's share of it
(`embed.3-of-8`). A finished share has a row of its own in the ledger. The job whose row is the last joins the parts
and records the stage. Evaluation does it instead if the last two ended so close together that neither saw the
other's row. No torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.distributed.preemption import RunControl
from harness.embed.parts import WHOLE, Embedding, JobShare, discard_parts, join_parts, open_embedding
from harness.grid.cell import Cell
from harness.grid.stage_run import StageRun
from harness.recipe.schema import Recipe
from harness.stages.missing import StageError, missing_stages
from harness.stages.run import is_first_rank, record, run_stage
from harness.stages.tasks import EMBED, pending_tasks, read_task, task_name
from harness.storage import ledger
from harness.storage.ledger import LedgerRow
from harness.storage.locks import HeldError, locked


def run_task(recipe: Recipe, cell: Cell, task: str, control: RunControl | None = None) -> None:
    """Run a task of a cell unless it is done. A SLURM job runs this.

    Raises:
        StageError: evaluation is to run, and the jobs that share the embedding have not embedded every part.
    """
    stage, share = read_task(task)
    if share != WHOLE:
        _run_share(recipe, cell, share, control)
        return
    if stage == "evaluate" and is_first_rank() and not finish(recipe, cell, control=control, wait=True):
        raise StageError(f"{cell.id} is not embedded completely: run again, and its missing parts are embedded")
    run_stage(recipe, cell, stage, control)


def _run_share(recipe: Recipe, cell: Cell, share: JobShare, control: RunControl | None) -> None:
    from harness.embed.cell import embed_cell

    work, start = missing_stages(recipe, cell), time.perf_counter()
    if EMBED not in work.missing:
        return
    run = work.stage_run(recipe, EMBED)
    embedding = open_embedding(run)
    values = embed_cell(embedding, share, control)
    if is_first_rank():
        values |= {"stage_seconds": round(time.perf_counter() - start, 3)}
        record(run, task_name(EMBED, share), values, control)
        finish(recipe, cell, embedding, control)


def finish(
    recipe: Recipe,
    cell: Cell,
    embedding: Embedding | None = None,
    control: RunControl | None = None,
    wait: bool = False,
) -> bool:
    """Join a cell's parts and record its embedding, once, if every part is complete; return whether it is recorded.

    One process does it at a time; if another holds the lock, this returns without joining. It also returns while rows
    of other jobs are missing. With `wait`, it waits for the lock and needs no rows, only the parts.

    Args:
        embedding: of this cell, if the caller has opened it already.
    """
    work = missing_stages(recipe, cell)
    if EMBED not in work.missing:
        return True
    if not wait and pending_tasks(recipe, work)[EMBED]:
        return False
    embedding = embedding or open_embedding(work.stage_run(recipe, EMBED))
    if embedding.parts.missing():
        return False  # checked before the lock is taken: the process that holds it has seen every part complete
    with _join_lock(embedding.stage.folder, wait) as acquired:
        if acquired and EMBED in missing_stages(recipe, cell).missing:
            _join(embedding, control)
    return EMBED not in missing_stages(recipe, cell).missing


def _join(embedding: Embedding, control: RunControl | None) -> None:
    run = embedding.stage
    start, rows = time.perf_counter(), _rows(run)
    try:
        joined = join_parts(embedding)
    except ValueError:  # a damaged part: its share has to run again, and any share may hold it
        _discard_rows(run)
        raise
    if joined is None:
        return
    seconds = time.perf_counter() - start + sum(float(row.values["stage_seconds"]) for row in rows)
    speeds = [row.values["crops_per_second"] for row in rows if row.values["crops_per_second"]]
    values = {
        "kind": run.cell.kind, **joined, "ranks": max((row.values["ranks"] for row in rows), default=1),
        "elements": len(rows), "crops_per_second": round(statistics.mean(speeds), 1) if speeds else None,
        "stage_seconds": round(seconds, 3),
    }  # fmt: skip
    record(run, EMBED, values, control)
    discard_parts(run.folder)
    _discard_rows(run)


@contextmanager
def _join_lock(folder: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock for joining a cell's parts; yields False if another process holds it and `wait` is not set."""
    try:
        with locked(folder / "finish.lock", f"another job that joins the parts of {folder.name}", wait):
            yield True
    except HeldError:
        yield False


def _rows(run: StageRun) -> list[LedgerRow]:
    """The rows of the cell's jobs under these settings, for any number of jobs that shared it."""
    rows = (ledger.read(run.recipe.output, run.cell.id, path.stem) for path in _row_paths(run))
    return [row for row in rows if row is not None and row.fingerprint == run.fingerprint]


def _discard_rows(run: StageRun) -> None:
    for path in _row_paths(run):
        path.unlink(missing_ok=True)


def _row_paths(run: StageRun) -> list[Path]:
    return sorted(ledger.row_path(run.recipe.output, run.cell.id, EMBED).parent.glob(f"{EMBED}.*-of-*.json"))
