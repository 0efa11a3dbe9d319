"""A rank that gets half of the time is named, under engines that wait for it in different places; and one that dies."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from distributed.processes import KillAt, start, train
from distributed.tiny import launched, tiny

from harness.launch.slurm.failures import Failure, cause, first_failure, record_failure
from harness.launch.slurm.job_states import JobState
from harness.storage.health.slow_nodes import read_slow_nodes

SLOW = 2
LARGER = ("models.vit_s16.width=64", "models.vit_s16.depth=4")  # so that blocks are a good part of a step
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Impatient:
    """A hook: three rows of ten steps are enough; each rank says that it runs on a node of its own."""

    def __call__(self) -> None:
        from harness.distributed.stalls import slow_ranks
        from harness.train import run_spec

        run_spec.LOG_STEPS = 10  # type: ignore[misc]
        os.environ["SLURMD_NODENAME"] = f"node{os.environ['RANK']}"
        patience = slow_ranks.Patience(rows=3, seconds=0.0)
        slow_ranks.Patience = lambda: patience  # type: ignore[assignment, misc]


@contextmanager
def half_of_the_time(process: BaseProcess) -> Iterator[None]:
    """Stop a process for 10 ms of every 20: many times in a row of the log, so that rows differ little."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set() and process.is_alive():
            for number in (signal.SIGSTOP, signal.SIGCONT):
                os.kill(process.pid or 0, number)
                time.sleep(0.01)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGCONT)


def until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not true():
        time.sleep(0.1)
    return true()


def named(output: Path) -> list[str]:
    """The nodes that are slow now. On a busy machine another one may be, too, for three rows."""
    return [slow.node for slow in read_slow_nodes(output)]


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_a_rank_that_gets_half_of_the_time_is_named_with_its_node(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, engine: str
) -> None:
    recipe, cell = tiny(write_tiny_recipe, tmp_path, "train.epochs=2000", *LARGER)
    processes = start(4, train, launched(recipe, engine=engine), cell, tmp_path / "cell", Impatient())
    log = tmp_path / "cell" / "train.jsonl"
    try:
        assert until(lambda: log.exists() and log.stat().st_size > 0, 90)
        with half_of_the_time(processes[SLOW]):
            assert until(lambda: '"node2"' in log.read_text(), 90)
            assert f"node{SLOW}" in named(recipe.output)
        assert until(lambda: f"node{SLOW}" not in named(recipe.output), 60)
        assert until(lambda: '"over": true' in log.read_text(), 10)
    finally:
        for process in processes:
            process.kill()
    rows = [row for row in map(json.loads, log.read_text().splitlines()) if row["kind"] == "slow"]
    first = next(row for row in rows if row["node"] == f"node{SLOW}")
    assert first["ranks"] == [SLOW]
    assert first["ratio"] >= 1.3


def train_and_record(recipe_json: str, cell_id: str, folder: Path, hook: Callable[[], None]) -> None:
    """Train, and record what is raised as a SLURM job does."""
    try:
        train(recipe_json, cell_id, folder, hook)
    except Exception as error:
        rank = int(os.environ["RANK"])
        record_failure(folder, Failure("train", 1, rank, "", type(error).__name__, str(error), ""))
        raise


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_when_one_rank_dies_the_others_end_within_seconds_and_it_is_no_permanent_failure(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, engine: str
) -> None:
    """Its connections are closed. A node that is gone closes none: it is like a rank that is stopped."""
    recipe, cell = tiny(write_tiny_recipe, tmp_path, "train.epochs=2000")
    folder = tmp_path / "cell"
    processes = start(4, train_and_record, launched(recipe, engine=engine), cell, folder, KillAt(SLOW, steps=3))
    processes[SLOW].join(90)
    assert processes[SLOW].exitcode == -signal.SIGKILL
    died = time.monotonic()
    for process in processes:
        process.join(max(0.1, died + 30 - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert all(code not in (None, 0) for code in codes), codes
    failure = first_failure(folder, "train", 1)
    assert failure is not None
    assert failure.is_consequence, failure
    assert cause(JobState("NODE_FAIL"), failure).verdict == "transient"
