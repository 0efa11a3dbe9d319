"""A rank that is stopped, not dead: named, its job ended; or, if it goes on, the run ends as any other."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from distributed.processes import start, train
from distributed.tiny import launched, tiny

from harness.distributed.stalls.pulse import ENDED
from harness.distributed.stalls.watch import Limits
from harness.storage.health.stall import STACKS, STALL

STOPPED, STEP = 2, 3
QUICK = Limits(beat=0.3, usual=2.0, end=None)


@dataclass(frozen=True)
class Started:
    """Four ranks, and the cell's folder."""

    processes: list[BaseProcess]
    folder: Path

    def exits(self, ranks: Sequence[int], seconds: float = 60) -> list[int | None]:
        """Exit codes of these ranks, after at most so long."""
        deadline = time.monotonic() + seconds
        for rank in ranks:
            self.processes[rank].join(max(0.0, deadline - time.monotonic()))
        return [self.processes[rank].exitcode for rank in ranks]


class StopAt:
    """A hook: short limits, and one rank stops itself after a step, as under a debugger or on a dead file system.

    With `sleep` it sleeps for so long before the next step, in the phase that waits for data.
    """

    def __init__(self, end: float | None, rank: int = STOPPED, sleep: float = 0.0) -> None:
        self.limits, self.rank, self.sleep = replace(QUICK, end=end), rank, sleep

    def __call__(self) -> None:
        from harness.distributed.stalls import watch
        from harness.train import loop, run

        real = watch.watched
        loop.watched = lambda *arguments: real(*arguments, limits=self.limits)
        if os.environ["RANK"] != str(self.rank):
            return
        inputs = run.Run.next_inputs

        def late(self_: run.Run, batches: Any) -> Any:
            if self_.progress.step == STEP:
                time.sleep(self.sleep) if self.sleep else os.kill(os.getpid(), signal.SIGSTOP)
            return inputs(self_, batches)

        run.Run.next_inputs = late  # type: ignore[method-assign]


@pytest.fixture
def begin(write_tiny_recipe: Callable[[Path], Path], tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start four ranks with a hook; what is left of them is killed."""
    begun: list[BaseProcess] = []

    def start_ranks(hook: Callable[[], None]) -> Started:
        recipe, cell = tiny(write_tiny_recipe, tmp_path, "train.epochs=6")
        processes = start(4, train, launched(recipe, engine="ddp"), cell, tmp_path / "cell", hook)
        begun.extend(processes)
        return Started(processes, tmp_path / "cell")

    yield start_ranks
    for process in begun:
        if process.is_alive():
            process.kill()


def told(folder: Path, seconds: float = 60) -> str:
    """What the ranks say of a stall, at most so long after this call."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (folder / STALL).exists():
            return str(json.loads((folder / STALL).read_text())["text"])
        time.sleep(0.2)
    raise AssertionError(f"no stall was told within {seconds:g} s")


@pytest.mark.slow
def test_a_stopped_rank_is_named_and_a_signal_ends_the_others(begin: Callable[..., Started]) -> None:
    """Their main threads are in a collective, where Python cannot run a handler."""
    ranks = begin(StopAt(end=None))
    text = told(ranks.folder)
    assert f"rank {STOPPED} (" in text
    assert f"pid {ranks.processes[STOPPED].pid}) is not answering; 3 wait in phase" in text
    assert f"of step {STEP}" in text
    stacks = {path.name for path in (ranks.folder / STACKS).iterdir()}
    assert stacks == {"rank-0.txt", "rank-1.txt", "rank-3.txt"}
    assert "harness/train/loop.py" in (ranks.folder / STACKS / "rank-0.txt").read_text()
    for rank in (0, 1, 3):
        os.kill(ranks.processes[rank].pid or 0, signal.SIGTERM)
    assert ranks.exits([0, 1, 3]) == [ENDED] * 3


@pytest.mark.slow
def test_a_stopped_first_rank_is_named_by_another_and_the_others_end(begin: Callable[..., Started]) -> None:
    ranks = begin(StopAt(end=15.0, rank=0))
    assert "rank 0, which keeps" in told(ranks.folder)
    assert ranks.exits([1, 2, 3]) == [ENDED] * 3


@pytest.mark.slow
def test_a_late_rank_is_named_with_its_phase_and_taken_back_when_it_goes_on(begin: Callable[..., Started]) -> None:
    ranks = begin(StopAt(end=None, sleep=12.0))
    text = told(ranks.folder)
    assert f"rank {STOPPED} (" in text
    assert f"still in phase data of step {STEP}; 3 wait in phase step of step {STEP}" in text
    assert ranks.exits(range(4), 120) == [0] * 4
    assert not (ranks.folder / STALL).exists()
