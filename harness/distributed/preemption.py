"""Stopping in order: a signal sets a flag, and all ranks act on it at the same boundary.

SIGUSR2 is what submitit sends before a time limit, SIGTERM what SLURM sends on preemption and the sweep on Ctrl-C. One
rank that gets one is enough; a second signal changes nothing. In training the boundary is the end of a step
(`pace.Agreement`), in validation and embedding the end of a batch (`in_lockstep`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from harness.storage.fencing import Fence, Unfenced

if TYPE_CHECKING:
    from harness.distributed.ranks import Ranks

Item = TypeVar("Item")


class Preempted(Exception):  # noqa: N818  (it is no error: the work is saved and goes on later)
    """The work was stopped at a boundary, after what the next run needs was written."""


class StopFlag:
    """Set by a signal, read by the loop."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is not None

    def __str__(self) -> str:
        return self.reason or "another rank was told to stop"

    def set(self, number: int, frame: FrameType | None = None) -> None:
        self.reason = self.reason or signal.Signals(number).name


@dataclass(frozen=True)
class Control:
    """What can end this process's work from outside: a signal, or a newer start of the same task."""

    stop: StopFlag
    fence: Fence


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """While this is open, SIGTERM and SIGUSR2 set the flag; the handlers before it come back after."""
    flag = StopFlag()
    numbers = (signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.signal(number, flag.set) for number in numbers}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def controlled(control: Control | None) -> Iterator[Control]:
    """The `control` of whoever runs this, a SLURM job; or, where there is none, that of this process's own signals."""
    if control is not None:
        yield control
        return
    with stop_on_signals() as stop:
        yield Control(stop, Unfenced())


def in_lockstep(items: Iterable[Item], ranks: Ranks, stop: StopFlag) -> Iterator[Item]:
    """Yield this rank's items, all ranks in step, until every rank has no more; ranks may have different numbers.

    Before each item the hosts ask one another whether any was told to stop.

    Raises:
        Preempted: one was; on all ranks before the same item.
    """
    for item in _padded(items, ranks):
        if ranks.any(bool(stop)):
            raise Preempted(f"{stop}")
        if item is not None:
            yield item


def _padded(items: Iterable[Item], ranks: Ranks) -> Iterator[Item | None]:
    """This rank's items, then None for as long as another rank has items."""
    iterator = iter(items)
    while True:
        item = next(iterator, None)
        if not ranks.any(item is not None):
            return
        yield item
