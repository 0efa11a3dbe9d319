"""Run a grid cell from its first missing stage to its last: train, embed, evaluate."""

from __future__ import annotations

import fcntl
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.distributed.preemption import Preempted
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import Cell, cells
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork, missing_stages
from harness.storage import fencing as fence
from harness.storage import ledger
from harness.storage.atomic import write_json
from harness.storage.ledger import LedgerRow, Stage


def run_cell(recipe_json: str, cell_id: str) -> list[str]:
    """Run what is missing of one cell, and return the names of the stages run. This is what a job runs.

    Two processes given the same cell never work on it at once: the second waits for the first, then finds it done.
    """
    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    cell = next(c for c in cells(recipe) if c.id == cell_id)
    folder = cell_folder(recipe, cell)
    with _alone(folder):
        work = missing_stages(recipe, cell)
        for stage in work.missing:
            _run(recipe, work, stage)
    return list(work.missing)


def run_stage(recipe: Recipe, cell: Cell, stage: Stage) -> None:
    """Run one stage of a cell unless it is done; for a SLURM job, whose `fence` keeps others from the cell."""
    work = missing_stages(recipe, cell)
    if stage in work.missing:
        _run(recipe, work, stage)


def _run(recipe: Recipe, work: CellWork, stage: Stage) -> None:
    cell, start = work.cell, time.perf_counter()
    values = _RUN[stage](recipe, cell, cell_folder(recipe, cell), work.fingerprints[stage])
    values |= {"stage_seconds": round(time.perf_counter() - start, 3)}
    if is_first_rank():
        fence.check()
        ledger.record(recipe.output, LedgerRow(cell.id, stage, work.fingerprints[stage], values))
        if stage in _DISCARD:
            _DISCARD[stage](cell_folder(recipe, cell))


def run_cells(recipe_json: str, cell_ids: Sequence[str], outcomes: Path) -> None:
    """Run several cells in turn in one process, which imports and warms up once; this is what a local job runs.

    Each cell leaves its outcome in the folder `outcomes`; one that raises does not keep the next from running.
    """
    for cell_id in cell_ids:
        error = None
        try:
            run_cell(recipe_json, cell_id)
        except Preempted:  # the process was told to stop, not this cell
            raise
        except Exception as raised:  # whatever it is, it is this cell's own
            traceback.print_exc()
            error = "".join(traceback.format_exception_only(raised)).strip()
        write_json(_outcome_path(outcomes, cell_id), {"error": error})


def read_outcome(outcomes: Path, cell_id: str) -> dict[str, str | None] | None:
    """What `run_cells` left of a cell, None as long as it has not ended."""
    try:
        found: dict[str, str | None] = json.loads(_outcome_path(outcomes, cell_id).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def _outcome_path(outcomes: Path, cell_id: str) -> Path:
    return outcomes / f"{cell_id}.outcome.json"


def is_first_rank() -> bool:
    """Whether this process is the one that speaks for its job."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the cell's lock, which the system frees however its holder dies. The other ranks follow the first."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_first_rank():
        yield
        return
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _train(recipe: Recipe, cell: Cell, folder: Path, stage_print: str) -> dict[str, Any]:
    from harness.train.loop import train_cell

    return train_cell(recipe, cell, folder, stage_print)


def _embed(recipe: Recipe, cell: Cell, folder: Path, stage_print: str) -> dict[str, Any]:
    from harness.embed.cell import embed_cell

    return embed_cell(recipe, cell, folder, stage_print)


def _evaluate(recipe: Recipe, cell: Cell, folder: Path, stage_print: str) -> dict[str, Any]:
    from harness.evaluate.cell import evaluate_cell

    joined: dict[str, Any] = {}
    if cell.kind == "profiles":
        from harness.evaluate.measured_profiles import join_profiles

        joined = join_profiles(recipe, cell, folder, stage_print)
    return {**joined, **evaluate_cell(recipe, folder)}


_RUN: dict[Stage, Callable[[Recipe, Cell, Path, str], dict[str, Any]]] = {
    "train": _train,
    "embed": _embed,
    "evaluate": _evaluate,
}


def _discard_checkpoints(folder: Path) -> None:
    from harness.checkpoint.checkpoints import discard

    discard(folder)


def _discard_parts(folder: Path) -> None:
    from harness.embed.parts import discard_parts

    discard_parts(folder)


# Only once the row is in the ledger: a run that dies before goes on from them.
_DISCARD: dict[Stage, Callable[[Path], None]] = {"train": _discard_checkpoints, "embed": _discard_parts}
