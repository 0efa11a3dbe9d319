"""Run grid cells on this machine, through submitit: a bounded number of processes, each running cells in turn.

A process runs the missing stages of each of its cells (`stages.run.run_cells`) while the sweep waits and shows
progress. `launch/slurm/` does the same through SLURM. Nothing here affects a result.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.grid.cell import Cell
from harness.launch.local.cancel import Cancelled
from harness.launch.local.record import Phase, Record
from harness.recipe.launch import Launch
from harness.recipe.schema import Recipe
from harness.stages.missing import lacks_training
from harness.stages.run import read_outcome, run_cells

POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0  # for a save
LOCAL_TIMEOUT_MINUTES = 60 * 24 * 365


@dataclass(frozen=True)
class Outcome:
    """How one cell ended: `error` is its exception as text, or None if it succeeded; `trace` is its traceback."""

    cell: Cell
    error: str | None
    log: Path
    trace: str = ""
    is_cancelled: bool = False

    @property
    def phase(self) -> Phase:
        """What is recorded of the cell."""
        return "cancelled" if self.is_cancelled else "done" if self.error is None else "failed"


@dataclass
class _Job:
    """A local process, its cells that have not ended, in the order in which it runs them, and its GPU if it has one."""

    handle: Any
    cells: list[Cell]
    gpu: int | None
    is_cancelled: bool = False
    deadline: float = math.inf  # by when it is to have ended, of time.monotonic

    @property
    def log(self) -> Path:
        return Path(self.handle.paths.stderr)

    def stop(self) -> None:
        """Tell the process to save and end; it has `GRACE_SECONDS`."""
        self.deadline = min(self.deadline, time.monotonic() + GRACE_SECONDS)
        with suppress(ProcessLookupError):
            self.handle._process.send_signal(signal.SIGTERM)  # submitit's own `cancel` kills after a second

    def kill_if_late(self) -> None:
        """Kill a process that was told to end and has not in time."""
        if time.monotonic() >= self.deadline:
            self.kill()

    def kill(self) -> None:
        """Kill the process, unless it has ended, and its children."""
        if self.handle._process.poll() is not None:
            return
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.handle._process.pid)
            for process in (*parent.children(recursive=True), parent):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def run_local(recipe: Recipe, pending: Sequence[Cell], watch: Callable[[Sequence[Cell]], None]) -> Generator[Outcome]:
    """Run cells on this machine, in at most `launch.parallel` processes at a time, yielding each as it ends.

    On a machine with GPUs (`launch.gpus_per_node`), each process has one of its own, and no more run at a time than
    there are GPUs. `watch` is called between polls with the running cells. Leaving early (Ctrl-C) stops the running
    jobs, which save first. If a process dies, only the cell that it was running fails; the rest go to another
    process. A cell that is cancelled meanwhile is stopped, and so are those that start from it.
    """
    pool = _Pool(recipe, pending)
    try:
        with _threads(recipe.launch):
            while pool.is_busy:
                pool.start_processes()
                time.sleep(POLL_SECONDS)
                watch([job.cells[0] for job in pool.jobs if job.cells])
                yield from pool.ended()
    finally:
        pool.stop()


class _Pool:
    """The processes of a sweep and the cells that wait for one; what happens to each cell is recorded."""

    def __init__(self, recipe: Recipe, pending: Sequence[Cell]) -> None:
        import submitit

        self.jobs: list[_Job] = []
        self._folder = _jobs_folder(recipe)
        self._executor = submitit.LocalExecutor(folder=self._folder)
        self._recipe, self._recipe_json = recipe, recipe.model_dump_json()
        self._free = devices(recipe.launch)
        self._waiting, self._size = list(pending), batch_size(len(pending), recipe.launch)
        self._record, self._cancelled = Record(recipe.output), Cancelled(recipe.output)
        self._record.add("queued", [cell.id for cell in pending])

    @property
    def is_busy(self) -> bool:
        """Whether cells run or wait."""
        return bool(self._waiting or self.jobs)

    def start_processes(self) -> None:
        """Give waiting cells to as many processes as may run."""
        running = [cell for job in self.jobs for cell in job.cells]
        while len(self.jobs) < self._recipe.launch.parallel and self._free:
            batch = next_batch(self._waiting, running, self._size)
            if not batch:
                return
            gpu = self._free.pop(0)
            shown = {"gpus_per_node": 0} if gpu is None else {"gpus_per_node": 1, "visible_gpus": (gpu,)}
            self._executor.update_parameters(timeout_min=LOCAL_TIMEOUT_MINUTES, **shown)
            with _interrupts_ignored():
                handle = self._executor.submit(run_cells, self._recipe_json, [cell.id for cell in batch], self._folder)
            self.jobs.append(_Job(handle, batch, gpu))
            self._record.add("running", [batch[0].id], self.jobs[-1].log)
            running += batch

    def stop(self) -> None:
        """Have all processes save and end, and wait for that; a second Ctrl-C kills them at once."""
        for job in self.jobs:
            job.stop()
        try:
            while any(not job.handle.done() for job in self.jobs):
                time.sleep(POLL_SECONDS)
                for job in self.jobs:
                    job.kill_if_late()
        finally:
            for job in self.jobs:
                job.kill()

    def ended(self) -> Iterator[Outcome]:
        """The cells that have ended or were cancelled since the last call."""
        self._stop_cancelled()
        for outcome in [*self._dropped(), *(outcome for job in list(self.jobs) for outcome in self._ended_of(job))]:
            yield from self._with_heirs(outcome)

    def _stop_cancelled(self) -> None:
        for job in self.jobs:
            if job.cells and not job.is_cancelled and job.cells[0].id in self._cancelled.cells():
                job.is_cancelled = True
                job.stop()
            job.kill_if_late()

    def _dropped(self) -> Iterator[Outcome]:
        """Waiting cells that were cancelled."""
        for cell in [cell for cell in self._waiting if cell.id in self._cancelled.cells()]:
            self._waiting.remove(cell)
            yield Outcome(cell, "cancelled", Path(), is_cancelled=True)

    def _ended_of(self, job: _Job) -> Iterator[Outcome]:
        is_done = job.handle.done()  # checked before the outcomes are read, so that none is missed
        before = len(job.cells)
        yield from _ended(job, self._folder)
        if is_done:
            self.jobs.remove(job)
            self._free.append(job.gpu)
            if job.cells:
                error = "cancelled" if job.is_cancelled else _error(job.handle)
                yield Outcome(job.cells.pop(0), error, job.log, is_cancelled=job.is_cancelled)
            self._waiting = [*job.cells, *self._waiting]
            if job.cells:
                self._record.add("queued", [cell.id for cell in job.cells])
        elif job.cells and len(job.cells) < before:
            self._record.add("running", [job.cells[0].id], job.log)

    def _with_heirs(self, outcome: Outcome) -> Iterator[Outcome]:
        """An outcome, and if its cell was not trained, those of the waiting cells that start from it, which end too."""
        error = outcome.error or ""
        self._record.add(outcome.phase, [outcome.cell.id], outcome.log, error, outcome.trace)
        yield outcome
        for heir in without_start(self._recipe, outcome, self._waiting):
            self._record.add(heir.phase, [heir.cell.id], heir.log, heir.error or "")
            yield heir


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


def without_start(recipe: Recipe, outcome: Outcome, waiting: list[Cell]) -> Iterator[Outcome]:
    """If a cell was not trained, remove from `waiting` those that start from it, and those that start from them."""
    if outcome.error is None or not lacks_training(recipe, outcome.cell):
        return
    how = "was cancelled" if outcome.is_cancelled else "failed"
    for heir in [cell for cell in waiting if cell.start is not None and cell.start.id == outcome.cell.id]:
        waiting.remove(heir)
        text = f"{outcome.cell.id}, from which it starts, {how}"
        ended = Outcome(heir, text, outcome.log, is_cancelled=outcome.is_cancelled)
        yield ended
        yield from without_start(recipe, ended, waiting)


def _ended(job: _Job, folder: Path) -> Iterator[Outcome]:
    """Remove the cells that the job has finished, and yield their outcomes."""
    while job.cells and (outcome := read_outcome(folder, job.cells[0].id)) is not None:
        yield Outcome(job.cells.pop(0), outcome["error"], job.log, outcome.get("trace") or "")


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


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that are started here ignore Ctrl-C, which the terminal sends to them too: the sweep ends them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
