"""What runs inside a SLURM job: one stage of one cell or an element of it, or the report that ends a study.

A job that is asked to stop saves and goes back into the queue under its own id; one that fails leaves the reason beside
the cell. Every process of a job runs this; the first rank speaks for all.
"""

from __future__ import annotations

import os
import time
import traceback

from harness.distributed.preemption import Control, Preempted, stop_on_signals
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import find_cell
from harness.launch.slurm import commands
from harness.launch.slurm.failures import Failure, leave
from harness.launch.slurm.heartbeat import heartbeat, job_id, start_heartbeat
from harness.recipe.schema import Recipe
from harness.stages import shared_embedding
from harness.storage.fencing import Fence, Start, Unfenced

REQUEUE_SECONDS = 120  # within which SLURM ends a job that it has put back into the queue


def run_task(recipe_json: str, cell_id: str, task: str, attempt: int) -> None:
    """Run one piece of a cell (`harness.stages.shared_embedding`), if it is still missing.

    Raises:
        Preempted: the job was told to stop and is not to come back (SIGTERM: a cancelled job, or SLURM requeues it).
        Exception: whatever the stage raised; it is left beside the cell too.
    """
    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    cell = find_cell(recipe, cell_id)
    folder = cell_folder(recipe, cell)
    folder.mkdir(parents=True, exist_ok=True)
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    with stop_on_signals() as stop:
        try:
            fence = Fence(folder, task, _start(attempt)) if rank == 0 else Unfenced()
            if rank == 0:
                start_heartbeat(heartbeat(folder, task))
            shared_embedding.run_task(recipe, cell, task, Control(stop, fence))
        except Preempted:
            if stop.reason == "SIGUSR2":  # the time limit is near, or a dearer job wants the nodes
                _back_into_the_queue(rank)
            raise
        except Exception as error:
            leave(
                folder, Failure(task, attempt, rank, job_id(), type(error).__name__, str(error), traceback.format_exc())
            )
            raise


def _start(attempt: int) -> Start:
    return Start(attempt, int(os.environ.get("SLURM_RESTART_COUNT", "0")), job_id())


def _back_into_the_queue(rank: int) -> None:
    """Requeue this job and wait for SLURM to end it: a rank that left early would end the others unheard."""
    if rank == 0:
        commands.requeue(job_id())
    time.sleep(REQUEUE_SECONDS)
