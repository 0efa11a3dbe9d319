"""Run a grid cell from its first missing stage to its last: train, embed, evaluate; each ends in a ledger row."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.distributed.preemption import Preempted, RunControl
from harness.grid.cell import Cell
from harness.grid.cell_folder import CELL_LOCK, cell_folder
from harness.grid.cells import find_cell
from harness.grid.stage_run import StageRun
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork, is_state_needed, is_stopped, lacks_training, missing_stages
from harness.storage import ledger
from harness.storage.atomic import write_json
from harness.storage.json_files import read_json
from harness.storage.ledger import LedgerRow, Stage
from harness.storage.locks import locked

OUTCOME = ("error", "trace")  # fields of a cell's outcome


def run_cell(recipe_json: str, cell_id: str) -> list[str]:
    """Run the missing stages of one cell, and return their names. A run that was stopped is not embedded.

    Two processes never work on the same cell at once: the second waits for the first, then finds it done.
    """
    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    cell = find_cell(recipe, cell_id)
    with _cell_lock(cell_folder(recipe, cell)):
        work = missing_stages(recipe, cell)
        done = []
        for stage in work.missing:
            if stage != "train" and is_stopped(recipe, cell):
                break
            _run(recipe, work, stage, None)
            done.append(str(stage))
    return done


def run_stage(recipe: Recipe, cell: Cell, stage: Stage, control: RunControl | None = None) -> None:
    """Run one stage of a cell unless it is done. Takes no lock: a SLURM job is fenced by `control` instead."""
    work = missing_stages(recipe, cell)
    if stage in work.missing:
        _run(recipe, work, stage, control)


def _run(recipe: Recipe, work: CellWork, stage: Stage, control: RunControl | None) -> None:
    start, run = time.perf_counter(), work.stage_run(recipe, stage)
    values = _RUN[stage](run, control)
    values |= {"stage_seconds": round(time.perf_counter() - start, 3)}
    if is_first_rank():
        record(run, stage, values, control)
        if stage == "embed":
            _discard_parts(run.folder)
        _release_state(recipe, work.cell)  # after each stage: a process may have been killed before it did
        if work.cell.start is not None:
            _release_state(recipe, find_cell(recipe, work.cell.start.id))


def record(run: StageRun, task: str, values: dict[str, Any], control: RunControl | None) -> None:
    """Record a finished stage, or one job's share of it, in the ledger.

    Raises:
        Fenced: a newer start of the task has taken over.
    """
    if control is not None:
        control.fence.check()
    ledger.record(run.recipe.output, LedgerRow(run.cell.id, task, run.fingerprint, values))


def run_cells(recipe_json: str, cell_ids: Sequence[str], outcomes: Path) -> None:
    """Run several cells in turn in one process, which imports and warms up once. A local job runs this.

    The outcome of each cell is written to the folder `outcomes`. If one raises, the next still runs.
    """
    for cell_id in cell_ids:
        error, trace = None, ""
        try:
            run_cell(recipe_json, cell_id)
        except Preempted:  # the signal stops the process, not only this cell
            raise
        except Exception as raised:  # any error is recorded as this cell's, and the next cell runs
            trace = traceback.format_exc()
            print(trace, file=sys.stderr)
            error = "".join(traceback.format_exception_only(raised)).strip()
        write_json(_outcome_path(outcomes, cell_id), {"error": error, "trace": trace})


def read_outcome(outcomes: Path, cell_id: str) -> dict[str, str | None] | None:
    """The outcome that `run_cells` wrote for a cell; None until the cell has ended."""
    path = _outcome_path(outcomes, cell_id)
    try:
        outcome = read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        return {"error": f"{path}: {error}"}
    if not isinstance(outcome, dict) or not all(isinstance(outcome.get(name, 0), str | None) for name in OUTCOME):
        return {"error": f"{path}: not the outcome of a cell"}
    return outcome


def _outcome_path(outcomes: Path, cell_id: str) -> Path:
    return outcomes / f"{cell_id}.outcome.json"


def is_first_rank() -> bool:
    """Whether this process records the results of its job."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


@contextmanager
def _cell_lock(folder: Path) -> Iterator[None]:
    """Hold the cell's lock in the first rank; the system releases it if the process dies. Other ranks take none."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_first_rank():
        yield
        return
    with locked(folder / CELL_LOCK, f"another process that runs {folder.name}"):
        yield


def _train(run: StageRun, control: RunControl | None) -> dict[str, Any]:
    from harness.train.loop import train_cell

    return train_cell(run, control)


def _embed(run: StageRun, control: RunControl | None) -> dict[str, Any]:
    from harness.embed.cell import embed_cell
    from harness.embed.parts import open_embedding

    return embed_cell(open_embedding(run), control=control)


def _evaluate(run: StageRun, control: RunControl | None) -> dict[str, Any]:
    from harness.evaluate.cell import evaluate_cell

    joined: dict[str, Any] = {}
    if run.cell.kind == "profiles":
        from harness.evaluate.measured_profiles import join_profiles

        joined = join_profiles(run)
    return {**joined, **evaluate_cell(run.recipe, run.folder, run.cell.kind)}


_RUN: dict[Stage, Callable[[StageRun, RunControl | None], dict[str, Any]]] = {
    "train": _train,
    "embed": _embed,
    "evaluate": _evaluate,
}


def _release_state(recipe: Recipe, cell: Cell) -> None:
    """Delete the checkpoints of a trained cell, but its final state as long as others are to start from that.

    An interrupted run resumes from these files until its row is in the ledger, as does one that is trained again.
    """
    from harness.checkpoint.lost import FOLDER

    if lacks_training(recipe, cell):
        return  # perhaps another process trains it now: a snapshot that was added, or a segment that is needed again
    folder = cell_folder(recipe, cell)
    if not (folder / FOLDER).exists():
        return
    from harness.checkpoint.checkpoints import discard
    from harness.checkpoint.final_state import keep_final_state

    if recipe.launch.keep_states or is_state_needed(recipe, cell) or is_stopped(recipe, cell):
        keep_final_state(folder)
    else:
        discard(folder)


def _discard_parts(folder: Path) -> None:
    from harness.embed.parts import discard_parts

    discard_parts(folder)
