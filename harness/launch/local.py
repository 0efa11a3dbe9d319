"""Run grid cells on this machine, through submitit: a bounded number of processes, each running cells in turn.

A process runs the missing stages of each of its cells (`stages.run.run_cells`) while the sweep waits and shows
progress. `launch/slurm/` does the same through SLURM. Nothing here affects a result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.grid.cell import Cell
from harness.recipe.launch import Launch
from harness.recipe.schema import Recipe
from harness.stages.missing import lacks_training
from harness.stages.run import read_outcome, run_cells

POLL_SECONDS = 0.2
LOCAL_TIMEOUT_MINUTES = 60 * 24 * 365


@dataclass(frozen=True)
class Outcome:
    """How one cell ended: `error` is its exception as text, or None if it succeeded."""

    cell: Cell
    error: str | None
    log: Path


@dataclass
class _Job:
    """A local process, its cells that have not ended, in the order in which it runs them, and its GPU if it has one."""

    handle: Any
    cells: list[Cell]
    gpu: int | None


def run_local(recipe: Recipe, pending: Sequence[Cell], watch: Callable[[Sequence[Cell]], None]) -> Generator[Outcome]:
    """Run cells on this machine, in at most `launch.parallel` processes at a time, yielding each as it ends.

    On a machine with GPUs (`launch.gpus_per_node`), each process has one of its own, and no more run at a time than
    there are GPUs. `watch` is called between polls with the running cells. Leaving early (Ctrl-C) stops the running
    jobs; their checkpoints are kept. If a process dies, only the cell that it was running fails; the rest go to another
    process.
    """
    import submitit

    folder = _jobs_folder(recipe)
    executor = submitit.LocalExecutor(folder=folder)
    launch, free = recipe.launch, devices(recipe.launch)
    recipe_json = recipe.model_dump_json()
    waiting, size = list(pending), batch_size(len(pending), launch)
    jobs: list[_Job] = []
    try:
        with _threads(launch):
            while waiting or jobs:
                running = [cell for job in jobs for cell in job.cells]
                while len(jobs) < launch.parallel and free and (batch := next_batch(waiting, running, size)):
                    gpu = free.pop(0)
                    shown = {"gpus_per_node": 0} if gpu is None else {"gpus_per_node": 1, "visible_gpus": (gpu,)}
                    executor.update_parameters(timeout_min=LOCAL_TIMEOUT_MINUTES, **shown)
                    handle = executor.submit(run_cells, recipe_json, [cell.id for cell in batch], folder)
                    jobs.append(_Job(handle, batch, gpu))
                    running += batch
                time.sleep(POLL_SECONDS)
                watch([job.cells[0] for job in jobs if job.cells])
                for job in list(jobs):
                    is_done = job.handle.done()  # checked before the outcomes are read, so that none is missed
                    ended = list(_ended(job, folder))
                    if is_done:
                        jobs.remove(job)
                        free.append(job.gpu)
                        if job.cells:
                            ended.append(Outcome(job.cells.pop(0), _error(job.handle), Path(job.handle.paths.stderr)))
                        waiting = [*job.cells, *waiting]
                    for outcome in ended:
                        yield outcome
                        yield from _without_start(recipe, outcome, waiting)
    finally:
        for job in jobs:
            job.handle.cancel()


def batch_size(count: int, launch: Launch) -> int:
    """How many cells a process runs: `launch.cells_per_job`, fewer if a process would otherwise have none."""
    return max(1, min(launch.cells_per_job, -(-count // launch.parallel)))


def next_batch(waiting: list[Cell], running: Sequence[Cell], size: int) -> list[Cell]:
    """Take from `waiting` up to `size` cells for one process, in order, whose start is done or before them in it."""
    batch: list[Cell] = []
    unfinished = {cell.id for cell in (*waiting, *running)}
    while len(batch) < size:
        ready = (cell for cell in waiting if cell.start is None or cell.start.id not in unfinished)
        if (cell := next(ready, None)) is None:
            break
        waiting.remove(cell)
        unfinished.remove(cell.id)
        batch.append(cell)
    return batch


def _without_start(recipe: Recipe, outcome: Outcome, waiting: list[Cell]) -> Iterator[Outcome]:
    """If a cell was not trained, remove from `waiting` those that start from it, and those that start from them."""
    if outcome.error is None or not lacks_training(recipe, outcome.cell):
        return
    for heir in [cell for cell in waiting if cell.start is not None and cell.start.id == outcome.cell.id]:
        waiting.remove(heir)
        failed = Outcome(heir, f"{outcome.cell.id}, from which it starts, failed", outcome.log)
        yield failed
        yield from _without_start(recipe, failed, waiting)


def _ended(job: _Job, folder: Path) -> Iterator[Outcome]:
    """Remove the cells that the job has finished, and yield their outcomes."""
    while job.cells and (outcome := read_outcome(folder, job.cells[0].id)) is not None:
        yield Outcome(job.cells.pop(0), outcome["error"], Path(job.handle.paths.stderr))


def devices(launch: Launch) -> list[int | None]:
    """What the processes of this machine run on, one each: the GPUs that this one sees, or None, which is the CPU.

    Raises:
        ValueError: CUDA_VISIBLE_DEVICES names GPUs otherwise than by number.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if launch.device == "cpu" or not launch.gpus_per_node or seen == "":
        return [None] * launch.parallel
    names = [str(number) for number in range(launch.gpus_per_node)] if seen is None else seen.split(",")
    if not all(name.strip().isdecimal() for name in names):
        raise ValueError(f"CUDA_VISIBLE_DEVICES is {seen!r}: list GPUs by their numbers, such as 0,1")
    return [*map(int, names[: launch.gpus_per_node])]


class _threads:  # noqa: N801  (a context manager, used like a function)
    """Limit each job to `cpus_per_task` compute threads."""

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

    def __init__(self, launch: Launch) -> None:
        self._values = dict.fromkeys(self.names, str(launch.cpus_per_task))

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self.names}
        os.environ.update(self._values)

    def __exit__(self, *error: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _error(job: Any) -> str:  # noqa: ANN401  (submitit is untyped)
    """Why a process ended before all of its cells."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        job.result()
    except FailedJobError as error:  # an exception outside any cell
        return _last_line_of_trace(str(error)) or type(error).__name__
    except UncompletedJobError:  # it wrote no result
        return "the process was killed"
    return "the process wrote no outcome"


def _last_line_of_trace(text: str) -> str:
    """The exception in submitit's message, which has a first line, a traceback between rules, and the logs' paths."""
    trace = text.split("-" * 22)[1] if text.count("-" * 22) >= 2 else text
    lines = [line for line in trace.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _jobs_folder(recipe: Recipe) -> Path:
    """Create a folder for this launch only: process ids are reused, and a new job must not read an old job's files."""
    folder = recipe.output / "jobs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
