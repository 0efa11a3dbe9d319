"""Start ranks as real processes (forkserver, so that torch and the harness are imported once), and disturb them."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["harness.train.loop", "harness.embed.cell", "harness.distributed.fsdp", "harness.train.event_file", "tqdm"]
)
PREEMPTED, DIVERGED = 75, 76  # exit codes

Work = Callable[..., None]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(world: int, work: Work, *arguments: Any) -> list[BaseProcess]:
    """Start `work(*arguments)` on every rank; `work` must be a module-level function."""
    port = free_port()
    processes = [CONTEXT.Process(target=_rank, args=(rank, world, port, work, arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    return list(processes)


def run(world: int, work: Work, *arguments: Any, timeout: float = 120, grace: float = 2) -> list[int | None]:
    """`start` the ranks and return their exit codes. If one is killed, kill the others after `grace` seconds."""
    processes = start(world, work, *arguments)
    deadline = time.monotonic() + timeout
    while alive := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in alive], max(0.0, deadline - time.monotonic()))
        if any(process.exitcode == -signal.SIGKILL for process in processes):
            deadline = min(deadline, time.monotonic() + grace)
        if time.monotonic() >= deadline:
            for process in alive:
                process.kill()
                process.join()
    return [process.exitcode for process in processes]


def _rank(rank: int, world: int, port: int, work: Work, arguments: tuple[Any, ...]) -> None:
    variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    work(*arguments)


def train(recipe_json: str, cell_id: str, folder: Path, hook: Callable[[], None] | None = None) -> None:
    """Train a grid cell on this rank; exit with PREEMPTED or DIVERGED if the run ends that way."""
    from harness.distributed.preemption import Preempted
    from harness.grid.cells import find_cell
    from harness.grid.stage_run import StageRun
    from harness.recipe.schema import Recipe
    from harness.train.divergence import Diverged
    from harness.train.loop import train_cell

    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    if hook is not None:
        hook()
    try:
        train_cell(StageRun(recipe, find_cell(recipe, cell_id), folder, "print"))
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(PREEMPTED)
    except Diverged as diverged:
        print(diverged, file=sys.stderr)
        sys.exit(DIVERGED)


def run_missing(recipe_json: str, cell_id: str, hook: Callable[[], None] | None = None) -> None:
    """Run what a grid cell lacks on this rank, in its own folder of the recipe's output."""
    from harness.stages.run import run_cell

    if hook is not None:
        hook()
    run_cell(recipe_json, cell_id)


class SignalAfter:
    """A hook: one rank sends itself a signal after a step."""

    def __init__(self, rank: int, step: int, number: int = signal.SIGTERM) -> None:
        self.rank, self.step, self.number = rank, step, number

    def __call__(self) -> None:
        if os.environ["RANK"] == str(self.rank):
            after_step(self._signal)

    def _signal(self, step: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), self.number)


def after_step(call: Callable[[int], None]) -> None:
    """Call `call` with the number of completed steps after each training step of this process."""
    from harness.train.run import Run

    real = Run.step

    def step(run: Run, *arguments: Any) -> None:
        real(run, *arguments)
        call(run.progress.step)

    Run.step = step  # type: ignore[method-assign]


class KillAt:
    """A hook: one rank is killed with SIGKILL, after a number of steps or during a save.

    During a save, the kill comes just before file system operation number `operations` of the writing threads: a
    flush, the rename of the folder, the move of the pointer, or the removal of an old checkpoint.
    """

    def __init__(self, rank: int, *, steps: int = 0, operations: int = 0) -> None:
        self.rank, self.steps, self.operations = rank, steps, operations

    def __call__(self) -> None:
        if os.environ["RANK"] != str(self.rank):
            return
        left = {"steps": self.steps, "operations": self.operations}

        def count(what: str) -> None:
            left[what] -= 1
            if left[what] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        after_step(lambda step: count("steps"))
        for name in ("fsync", "rename", "replace", "unlink", "rmdir"):
            setattr(os, name, self._counted(getattr(os, name), lambda: count("operations")))

    @staticmethod
    def _counted(real: Callable[..., Any], count: Callable[[], None]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread().name.lower().startswith(("checkpoint", "asynccheckpoint")):
                count()
            return real(*arguments, **options)

        return operation


class SignalIn:
    """A hook: one rank (or none, -1) sends itself signals when a module prepares batch number `call` of crops."""

    def __init__(self, module: str, rank: int, call: int, *numbers: int) -> None:
        self.module, self.rank, self.left, self.numbers = module, rank, call, numbers

    def __call__(self) -> None:
        module = importlib.import_module(self.module)
        module.VALIDATION_BATCH = 2  # type: ignore[attr-defined]  # so that validation has several batches
        real = module.to_model_input

        def prepare(*arguments: Any) -> Any:
            self.left -= 1
            for number in self.numbers if self.left == 0 else ():
                os.kill(os.getpid(), number)
            return real(*arguments)

        if os.environ["RANK"] == str(self.rank):
            module.to_model_input = prepare  # type: ignore[attr-defined]


class Poison:
    """A hook: one pixel of one rank's first crop is NaN at one step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.left = rank, step + 1

    def __call__(self) -> None:
        from harness.train import run

        real = run.to_model_input

        def prepare(*arguments: Any) -> Any:
            crops = real(*arguments)
            self.left -= 1
            if self.left == 0:
                crops[0, 0, 0, 0] = float("nan")
            return crops

        if os.environ["RANK"] == str(self.rank):
            run.to_model_input = prepare


def embed(recipe_json: str, cell_id: str, folder: Path, hook: Callable[[], None] | None = None) -> None:
    """Embed a trained grid cell's wells on this rank; exit with PREEMPTED if the run ends that way."""
    from harness.distributed.preemption import Preempted
    from harness.embed.cell import embed_cell
    from harness.embed.parts import open_embedding
    from harness.grid.cells import find_cell
    from harness.grid.stage_run import StageRun
    from harness.recipe.schema import Recipe

    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    if hook is not None:
        hook()
    try:
        embed_cell(open_embedding(StageRun(recipe, find_cell(recipe, cell_id), folder, "print")))
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(PREEMPTED)
