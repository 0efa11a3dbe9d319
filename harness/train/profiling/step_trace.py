"""`launch.profile`: a torch profiler trace and a memory snapshot of chosen steps, in the cell's folder.

    <cell>/profile/steps-101-105-rank-0.trace.json.gz   opens in Perfetto (ui.perfetto.dev) and chrome://tracing
    <cell>/profile/steps-101-105-rank-0.memory.pickle   of the GPU's allocator, opens in pytorch.org/memory_viz

Steps are counted from 1, as in the log. A run that resumes inside the range profiles the rest of it, and one that
resumes behind it nothing. Profiling takes time, and changes no numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from harness.checkpoint.checkpoints import say
from harness.distributed.ranks import Ranks
from harness.distributed.stalls.pulse import PULSE, SAVE
from harness.recipe.launch import Profile

FOLDER = "profile"  # in the folder of a cell
MOST_EVENTS = 1_000_000  # of the allocator, in a memory snapshot; the latest are kept


class StepTrace:
    """The trace of one rank's steps. Does nothing without a `profile`, or on a rank that it does not name."""

    def __init__(
        self, profile: Profile | None, folder: Path, ranks: Ranks,
        outside_steps: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:  # fmt: skip
        """`outside_steps` leaves the time inside it out of the logged rates."""
        self._folder, self._ranks, self._outside_steps = folder / FOLDER, ranks, outside_steps
        self._steps = range(0)
        self._profiler: torch.profiler.profile | None = None
        self._first = self._last = 0
        if profile is None:
            return
        absent = [rank for rank in profile.ranks if rank >= ranks.world]
        if absent and ranks.is_first:
            say(f"launch.profile.ranks: this run has {ranks.world} ranks, so none is {', '.join(map(str, absent))}")
        if ranks.rank in profile.ranks:
            self._steps = range(profile.steps[0], profile.steps[1] + 1)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around a step, with its wait for data: record it if it is one of the chosen."""
        if number not in self._steps:
            yield
            return
        if self._profiler is None:
            self._start(number)
        self._last = number
        with torch.profiler.record_function(f"step {number}"):
            yield
        if number == self._steps[-1]:
            self.close()

    def _start(self, number: int) -> None:
        self._first, on_gpu = number, self._ranks.device.type == "cuda"
        if on_gpu:
            torch.cuda.memory._record_memory_history(max_entries=MOST_EVENTS)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        self._profiler = torch.profiler.profile(activities=activities, record_shapes=True)
        self._profiler.start()

    def close(self) -> None:
        """Write what was recorded, if a range is open. A full disk costs the trace, not the training."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        if self._ranks.device.type == "cuda":
            torch.cuda.synchronize(self._ranks.device)
        PULSE.mark(SAVE)
        with self._outside_steps():
            profiler.stop()
            try:
                self._write(profiler)
            except (OSError, RuntimeError) as error:
                say(f"warning: {self._folder}: the profile could not be written: {error}")
            finally:
                if self._ranks.device.type == "cuda":
                    torch.cuda.memory._record_memory_history(enabled=None)

    def _write(self, profiler: torch.profiler.profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"steps-{self._first}-{self._last}-rank-{self._ranks.rank}"
        trace = self._folder / f"{name}.trace.json.gz"
        with _renamed_to(trace) as partial:
            profiler.export_chrome_trace(str(partial))
        said = "no memory snapshot: only GPUs have one"
        if self._ranks.device.type == "cuda":
            with _renamed_to(self._folder / f"{name}.memory.pickle") as partial:
                torch.cuda.memory._dump_snapshot(str(partial))  # type: ignore[no-untyped-call]
            said = f"{name}.memory.pickle beside it"
        say(f"{trace}: the profile of steps {self._first} to {self._last}; {said}")


@contextmanager
def _renamed_to(path: Path) -> Iterator[Path]:
    """A temporary name with the same ending, by which torch decides to compress; renamed when the file is complete."""
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
