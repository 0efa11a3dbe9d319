"""Run one task of a grid cell inside a SLURM job: a stage, or one job's share of an embedding.

A job that is told to stop saves and is requeued under its own id, and one whose work stands still is requeued too; one
that fails records the reason in the cell's folder. Every process of a job runs this. Only the first rank takes the
fence, writes heartbeats and requeues a job that saved; a stalled one is requeued by the first rank that answers.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from harness.distributed.preemption import Preempted, RunControl, StopFlag, stop_on_signals
from harness.distributed.stalls.pulse import ENDED, Ending
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import find_cell
from harness.launch.slurm import commands
from harness.launch.slurm.commands import SlurmError
from harness.launch.slurm.failures import STALLED, STOPPED, Failure, forget_stop, record_failure
from harness.launch.slurm.heartbeat import heartbeat, job_id, restarts, start_heartbeat
from harness.recipe.schema import Recipe
from harness.stages import shared_embedding
from harness.storage.fencing import Fence, Start, Unfenced
from harness.storage.health.stall import may_requeue

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
                forget_stop(folder, task, attempt)
                start_heartbeat(heartbeat(folder, task))
            shared_embedding.run_task(
                recipe, cell, task, RunControl(stop, fence, end_stalled(folder, task, attempt, rank, stop))
            )
        except Preempted as stopped:
            requeues = recipe.launch.slurm.requeues and stop.reason == "SIGUSR2"  # after SIGTERM, SLURM does by itself
            if not (requeues and _requeue(rank)) and rank == 0:
                record_failure(folder, Failure(task, attempt, rank, job_id(), STOPPED, str(stopped), "", restarts()))
            raise
        except Exception as error:
            kind, trace = type(error).__name__, traceback.format_exc()
            record_failure(folder, Failure(task, attempt, rank, job_id(), kind, str(error), trace, restarts()))
            raise


def end_stalled(folder: Path, task: str, attempt: int, rank: int, stop: StopFlag) -> Callable[[Ending], None]:
    """What ends a process of this job whose work stands still: the rank that speaks records it, and requeues the job.

    After SIGTERM it is not requeued: SLURM does that by itself, or the job was cancelled. Nor is it for ever where it
    hangs each time at the same step: then the job fails, and the report job submits it again as often as any other.
    """

    def end(ending: Ending) -> None:
        again = not ending.told_to_stop or stop.reason == "SIGUSR2"
        if ending.is_speaker:
            print(ending.text, file=sys.stderr, flush=True)
            record_failure(folder, Failure(task, attempt, rank, job_id(), STALLED, ending.text, "", restarts()))
            again = again and may_requeue(folder, job_id(), ending.step) and _is_requeued()
        if again:
            time.sleep(REQUEUE_SECONDS)
        os._exit(ENDED)

    return end


def _is_requeued() -> bool:
    """Requeue this job; False, and a note, if SLURM refuses: the report job then submits it again."""
    try:
        commands.requeue(job_id())
    except SlurmError as error:
        print(f"not requeued: {error}", file=sys.stderr, flush=True)
        return False
    return True


def _start(attempt: int) -> Start:
    return Start(attempt, restarts(), job_id())


def _requeue(rank: int) -> bool:
    """Requeue this job and wait for SLURM to end it: if a rank exited early, srun would kill the others.

    False, and at once on the first rank, if SLURM refuses.
    """
    is_requeued = rank > 0 or _is_requeued()
    if is_requeued:
        time.sleep(REQUEUE_SECONDS)
    return is_requeued
