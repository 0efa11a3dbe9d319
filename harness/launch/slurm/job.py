"""What runs inside a SLURM job: one stage of one cell or an element of it, or the report that ends a study.

A job that is asked to stop saves and goes back into the queue under its own id; one that fails leaves the reason beside
the cell. Every process of a job runs this; the first rank speaks for all.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from harness.distributed.preemption import Preempted, stop_on_signals
from harness.grid.cells import cells
from harness.launch.slurm import commands
from harness.launch.slurm.failures import Failure, leave
from harness.recipe.schema import Recipe
from harness.stages import missing as stages
from harness.stages import shared_embedding as elements
from harness.storage import fencing as fence
from harness.storage.atomic import write_json
from harness.storage.fencing import Fence, Start

BEAT_SECONDS = 20
REQUEUE_SECONDS = 120  # within which SLURM ends a job that it has put back into the queue


def run_piece(recipe_json: str, cell_id: str, piece: str, attempt: int) -> None:
    """Run one piece of a cell (`harness.stages.shared_embedding`), if it is still missing.

    Raises:
        Preempted: the job was told to stop and is not to come back (SIGTERM: a cancelled job, or SLURM requeues it).
        Exception: whatever the stage raised; it is left beside the cell too.
    """
    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    cell = next(cell for cell in cells(recipe) if cell.id == cell_id)
    folder = stages.cell_folder(recipe, cell)
    folder.mkdir(parents=True, exist_ok=True)
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    with stop_on_signals() as stop:
        try:
            if rank == 0:
                fence.hold(Fence(folder, piece, _start(attempt)))
                _beat(heartbeat(folder, piece))
            elements.run_piece(recipe, cell, piece)
        except Preempted:
            if stop.reason == "SIGUSR2":  # the time limit is near, or a dearer job wants the nodes
                _back_into_the_queue(rank)
            raise
        except Exception as error:
            leave(
                folder, Failure(piece, attempt, rank, _job(), type(error).__name__, str(error), traceback.format_exc())
            )
            raise


def report_and_resume(recipe_json: str) -> None:
    """Draw the report, and submit again what failed for a reason that passes: a study ends with no one watching."""
    from harness.launch.slurm.submit import submit
    from harness.report.write import report

    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    works = [stages.todo(recipe, cell) for cell in cells(recipe)]
    for name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
        del os.environ[name]  # what this job was given is not what the next shall ask for
    submission = submit(recipe, works)
    print(f"submitted {len(submission.entries)} arrays, held back {len(submission.held)} cells", flush=True)
    report(recipe)


def _start(attempt: int) -> Start:
    return Start(attempt, int(os.environ.get("SLURM_RESTART_COUNT", "0")), _job())


def _job() -> str:
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array else os.environ.get("SLURM_JOB_ID", "")


def _back_into_the_queue(rank: int) -> None:
    """Requeue this job and wait for SLURM to end it: a rank that left early would end the others unheard."""
    if rank == 0:
        commands.requeue(_job())
    time.sleep(REQUEUE_SECONDS)


def heartbeat(folder: Path, piece: str) -> Path:
    """Where the job of a piece says that it lives."""
    return folder / f"heartbeat-{piece}.json"


def _beat(path: Path) -> None:
    """Say every few seconds that this start lives, for clusters that keep no account of their jobs."""
    restart, code = int(os.environ.get("SLURM_RESTART_COUNT", "0")), str(Path(__file__).parents[3])
    beat: dict[str, Any] = {"job": _job(), "restart": restart, "code": code}

    def go_on() -> None:
        while True:
            write_json(path, {**beat, "time": time.time()})
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=go_on, daemon=True).start()
