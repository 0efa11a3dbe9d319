"""Run one task of a grid cell inside a SLURM job: a stage, or one job's share of an embedding.

A job that is told to stop saves and is requeued under its own id; one that fails records the reason in the cell's
folder. Every process of a job runs this; only the first rank takes the fence, writes heartbeats and requeues the job.
"""

from __future__ import annotations

import os
import time
import traceback

from harness.distributed.preemption import Preempted, RunControl, stop_on_signals
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import find_cell
from harness.launch.slurm import commands
from harness.launch.slurm.failures import Failure, record_failure
from harness.launch.slurm.heartbeat import heartbeat, job_id, start_heartbeat
from harness.recipe.schema import Recipe
from harness.stages import shared_embedding
from harness.storage.fencing import Fence, Start, Unfenced

REQUEUE_SECONDS = 120  # SLURM ends a requeued job within this time


def run_task(recipe_json: str, cell_id: str, task: str, attempt: int) -> None:
    """Run one task of a cell (`harness.stages.shared_embedding`) if it is not done.

    Raises:
        Preempted: the job was told to stop and does not requeue itself (SIGTERM: cancelled, or SLURM requeues it).
        Exception: what the task raised; it is also recorded in the cell's folder.
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
            shared_embedding.run_task(recipe, cell, task, RunControl(stop, fence))
        except Preempted:
            if stop.reason == "SIGUSR2":  # from SIGTERM's preemption SLURM requeues by itself
                _requeue(rank)
            raise
        except Exception as error:
            kind, trace = type(error).__name__, traceback.format_exc()
            record_failure(folder, Failure(task, attempt, rank, job_id(), kind, str(error), trace))
            raise


def _start(attempt: int) -> Start:
    return Start(attempt, int(os.environ.get("SLURM_RESTART_COUNT", "0")), job_id())


def _requeue(rank: int) -> None:
    """Requeue this job and wait for SLURM to end it: if a rank exited early, srun would kill the others."""
    if rank == 0:
        commands.requeue(job_id())
    time.sleep(REQUEUE_SECONDS)
