"""Ranks that keep all others waiting: how long a step would take each rank if it never waited for another.

The wall time of a step is the same on all ranks, because collectives make the fast ones wait. What differs is the time
before them: waiting for data, and computing, which is measured inside blocks, where no engine communicates.

Shapes: R ranks.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from analysis.arrays import Floats
from harness.distributed.ranks import Ranks
from harness.distributed.recompute import blocks_of
from harness.distributed.stalls.step_clock import StepClock

if TYPE_CHECKING:
    from harness.models.interface import Network


def node_name() -> str:
    """This node's name as SLURM knows it, or its host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


class Timer(Protocol):
    """Measures pieces of work on a device without waiting for it."""

    def piece(self) -> AbstractContextManager[None]:
        """Measure what is done inside the context."""
        ...

    def read(self) -> float:
        """Seconds of the pieces that have ended since the last call."""
        ...


class HostTimer:
    """On a CPU, where a piece has ended when its call returns."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @contextmanager
    def piece(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def read(self) -> float:
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class DeviceTimer:
    """On a GPU, by pairs of events in the stream that computes."""

    def __init__(self) -> None:
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def piece(self) -> Iterator[None]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        yield
        end.record()
        self._pairs.append((begin, end))

    def read(self) -> float:
        ended = [(begin, end) for begin, end in self._pairs if end.query()]  # type: ignore[no-untyped-call]
        self._pairs = self._pairs[len(ended) :]
        return float(sum(begin.elapsed_time(end) for begin, end in ended) / 1000)


def time_forward(model: Network, ranks: Ranks, *, is_whole: bool = False) -> Timer | None:
    """Time the forward passes in training of the blocks of a model, or of all of one that is compiled as a whole.

    Call it before an engine wraps the model, and after `set_up_blocks`: FSDP's and ZeRO's hooks, which gather weights
    and so wait for other ranks, then run outside, and compiled code inside. None with one rank, which waits for none.
    """
    if ranks.world == 1:
        return None
    timer = DeviceTimer() if ranks.device.type == "cuda" else HostTimer()
    for timed in [model] if is_whole else blocks_of(model):
        timed.forward = _timed(timed.forward, timer)
    return timer


def _timed(forward: Callable[..., Any], timer: Timer) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: object, **kwargs: object) -> Any:  # noqa: ANN401  (whatever the block returns)
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        with timer.piece():
            return forward(*args, **kwargs)

    return run


def slowness(waits: Floats, computing: Floats, step: float) -> Floats:
    """How long each rank's step would take if it never waited for another rank, in units of the median rank: (R,).

    Args:
        waits: (R,) seconds of a step that each rank waits for data.
        computing: (R,) seconds of a step for work that is the same on all ranks.
        step: seconds of a step, equal on all ranks.
    """
    busy = max(step - float(waits.max()), 0.0)
    own = waits + busy * computing / max(_median(computing), 1e-12)
    return own / max(_median(own), 1e-12)


def _median(values: Floats) -> float:
    """The lower median: of two ranks, the fast one is what is usual."""
    return float(np.sort(values)[(len(values) - 1) // 2])


@dataclass(frozen=True)
class Patience:
    """How slow a rank has to be, for how many rows of the log in a row, and for how many seconds."""

    ratio: float = 1.3
    rows: int = 3
    seconds: float = 60.0


@dataclass(frozen=True)
class Slow:
    """A node that was found slow, or, with `is_over`, no longer is."""

    node: str
    ranks: tuple[int, ...]
    ratio: float
    text: str
    is_over: bool = False


class SlowRanks(StepClock):
    """Gathers each rank's own time at every row of the log, and says on the first rank which nodes are slow.

    What is gathered at one row is read at the next, so that nobody waits for it. All ranks call `row` at equal steps.
    """

    def __init__(self, ranks: Ranks, timer: Timer | None, step: int = 0, patience: Patience | None = None) -> None:
        super().__init__()
        self._ranks, self._timer, self._step, self._patience = ranks, timer, step, patience or Patience()
        self._pending: tuple[dist.Work, list[torch.Tensor]] | None = None
        self._nodes: list[str] = [node_name()] * ranks.world
        if ranks.world > 1:
            dist.all_gather_object(self._nodes, node_name(), group=ranks.control)
        self._streaks = [(0, 0.0)] * ranks.world  # rows, and when the first of them was
        self._named: dict[str, Slow] = {}

    def row(self, step: int) -> list[Slow]:
        """Write a row after a step; return the nodes that are slow, or no longer are, as of the row before."""
        steps, self._step = max(step - self._step, 1), step
        if self._timer is None:
            return []
        lap = self.lap()
        mine = [seconds / steps for seconds in (lap.waited, self._timer.read(), lap.seconds)]
        previous, self._pending = self._pending, self._gather(mine)
        if previous is None:
            return []
        work, found = previous
        work.wait()
        return self._judge(torch.stack(found).numpy()) if self._ranks.is_first else []

    def close(self) -> None:
        """Wait for the last gathering; call it only when all ranks end at this step."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None

    def _gather(self, mine: list[float]) -> tuple[dist.Work, list[torch.Tensor]]:
        found = [torch.empty(len(mine), dtype=torch.float64) for _ in range(self._ranks.world)]
        work = dist.all_gather(found, torch.tensor(mine, dtype=torch.float64), group=self._ranks.control, async_op=True)
        assert work is not None
        return work, found

    def _judge(self, times: Floats) -> list[Slow]:
        """The nodes whose verdict changes by one more row: (R, 3) of waits, computing and steps."""
        waits, computing, now = times[:, 0], times[:, 1], time.monotonic()
        ratios = slowness(waits, computing, float(np.median(times[:, 2])))
        for rank, ratio in enumerate(ratios):
            rows, first = self._streaks[rank]
            self._streaks[rank] = (rows + 1, first if rows else now) if ratio >= self._patience.ratio else (0, 0.0)
        slow = self._by_node([rank for rank in range(len(ratios)) if self._is_slow(rank, now)])
        changes = []
        for node, ranks in slow.items():
            if node not in self._named:
                self._named[node] = _slow(node, ranks, ratios, waits, computing)
                changes.append(self._named[node])
        for node in [node for node in self._named if node not in slow]:
            before = self._named.pop(node)
            changes.append(Slow(node, before.ranks, 1.0, f"node {node} is no longer slow", is_over=True))
        return changes

    def _is_slow(self, rank: int, now: float) -> bool:
        rows, first = self._streaks[rank]
        return rows >= self._patience.rows and now - first >= self._patience.seconds

    def _by_node(self, ranks: list[int]) -> dict[str, tuple[int, ...]]:
        nodes = dict.fromkeys(self._nodes[rank] for rank in ranks)
        return {node: tuple(rank for rank in ranks if self._nodes[rank] == node) for node in nodes}


def _slow(node: str, ranks: tuple[int, ...], ratios: Floats, waits: Floats, computing: Floats) -> Slow:
    worst = max(ranks, key=lambda rank: ratios[rank])
    names = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
    return Slow(
        node, ranks, float(ratios[worst]),
        f"node {node} is slow: {names} would take {ratios[worst]:.1f} times as long for a step as the median rank "
        f"(rank {worst}: computing {computing[worst] / max(_median(computing), 1e-12):.1f} times as long, "
        f"data {waits[worst]:.3f} s a step, median {_median(waits):.3f} s)",
    )  # fmt: skip
