"""The embedding of a cell by several jobs that know nothing of one another: array elements, each with its own parts.

Job book, fences, failures and ledger know a job by its piece: a stage (`train`), or an element of one (`embed.3-of-8`).
An element that is done has a row of its own in the ledger. The one whose row is the last puts the parts together and
records the stage; or evaluation does, where the last two ended so close together that neither saw the other's row. No
torch.
"""

from __future__ import annotations

import fcntl
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.embed.parts import WHOLE, JobShare, discard_parts, join_parts, parts_of
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import Cell
from harness.recipe.schema import Recipe
from harness.stages import missing as stages
from harness.stages.missing import StageError
from harness.stages.run import is_first_rank, run_stage
from harness.stages.tasks import EMBED, pending_tasks, read_task, task_name
from harness.storage import fencing as fence
from harness.storage import ledger
from harness.storage.ledger import LedgerRow


def run_task(recipe: Recipe, cell: Cell, task: str) -> None:
    """Run a piece of a cell unless it is done; what a SLURM job does.

    Raises:
        StageError: evaluation is to run, and the elements have not embedded every part.
    """
    stage, share = read_task(task)
    if share != WHOLE:
        _run_element(recipe, cell, share)
        return
    if stage == "evaluate" and is_first_rank() and not finish(recipe, cell, wait=True):
        raise StageError(f"{cell.id} is not embedded whole: run again, and its missing parts are")
    run_stage(recipe, cell, stage)


def _run_element(recipe: Recipe, cell: Cell, share: JobShare) -> None:
    from harness.embed.cell import embed_cell

    work, start = stages.missing_stages(recipe, cell), time.perf_counter()
    if EMBED not in work.missing:
        return
    values = embed_cell(recipe, cell, cell_folder(recipe, cell), work.fingerprints[EMBED], share)
    if is_first_rank():
        values |= {"stage_seconds": round(time.perf_counter() - start, 3)}
        fence.check()
        ledger.record(recipe.output, LedgerRow(cell.id, task_name(EMBED, share), work.fingerprints[EMBED], values))
        finish(recipe, cell)


def finish(recipe: Recipe, cell: Cell, wait: bool = False) -> bool:
    """Put a cell's parts together and record its embedding, once, if every part is whole; whether it is recorded.

    One process does it at a time; another that finds it busy leaves it to that one. An element leaves it, too, to those
    whose rows are yet to come. With `wait` it is done whatever rows there are, after whoever is at it.
    """
    folder, work = cell_folder(recipe, cell), stages.missing_stages(recipe, cell)
    if EMBED not in work.missing:
        return True
    if not wait and pending_tasks(recipe, work)[EMBED]:
        return False
    if parts_of(recipe, cell, folder, work.fingerprints[EMBED])[1].missing():
        return False  # looked at before the lock is asked for: whoever holds it has seen every part whole
    with _locked(folder, wait) as held:
        if held and EMBED in stages.missing_stages(recipe, cell).missing:
            _join(recipe, cell, folder, work.fingerprints[EMBED])
    return EMBED not in stages.missing_stages(recipe, cell).missing


def _join(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str) -> None:
    start, rows = time.perf_counter(), _rows(recipe, cell, fingerprint)
    try:
        joined = join_parts(recipe, cell, folder, fingerprint)
    except ValueError:  # a damaged part: its element is to be run again, whichever it was
        _discard_rows(recipe, cell)
        raise
    if joined is None:
        return
    seconds = time.perf_counter() - start + sum(float(row.values["stage_seconds"]) for row in rows)
    speeds = [row.values["crops_per_second"] for row in rows if row.values["crops_per_second"]]
    values = {
        "kind": cell.kind, **joined, "ranks": max((row.values["ranks"] for row in rows), default=1),
        "elements": len(rows), "crops_per_second": round(statistics.mean(speeds), 1) if speeds else None,
        "stage_seconds": round(seconds, 3),
    }  # fmt: skip
    fence.check()
    ledger.record(recipe.output, LedgerRow(cell.id, EMBED, fingerprint, values))
    discard_parts(folder)
    _discard_rows(recipe, cell)


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[bool]:
    """Hold the right to put a cell's parts together; False where another has it and `wait` is not asked for."""
    with (folder / "finish.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _rows(recipe: Recipe, cell: Cell, fingerprint: str) -> list[LedgerRow]:
    """What the elements of a cell recorded under these settings, those of another number of elements too."""
    found = (ledger.read(recipe.output, cell.id, path.stem) for path in _row_paths(recipe, cell))
    return [row for row in found if row is not None and row.fingerprint == fingerprint]


def _discard_rows(recipe: Recipe, cell: Cell) -> None:
    for path in _row_paths(recipe, cell):
        path.unlink(missing_ok=True)


def _row_paths(recipe: Recipe, cell: Cell) -> list[Path]:
    return sorted(ledger.row_path(recipe.output, cell.id, EMBED).parent.glob(f"{EMBED}.*-of-*.json"))
