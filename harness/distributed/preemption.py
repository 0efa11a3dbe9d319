"""Stop cleanly on a signal: the signal sets a flag, and all ranks stop at the same boundary.

submitit has SLURM send SIGUSR2 before a time limit, and on preemption where the cluster sets `send_user_signal`.
Otherwise SLURM sends SIGTERM on preemption; the sweep sends it on Ctrl-C. A signal to one rank stops all ranks; a
second signal changes nothing. In training the boundary is the end of a step (`agreement.Agreement`), in validation and
embedding the end of a batch (`in_lockstep`).
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from harness.distributed.stalls.pulse import BATCH, PULSE, Ending
from harness.storage.fencing import Fence, Unfenced

if TYPE_CHECKING:
    from harness.distributed.ranks import Ranks

Item = TypeVar("Item")
STOPS = (signal.SIGTERM, signal.SIGUSR2)


class Preempted(Exception):  # noqa: N818  (not an error: the work is saved and can resume)
    """The work was stopped at a boundary, after everything that a resume needs was written."""


class StopFlag:
    """A flag that a signal handler sets and the loop reads."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is not None

    def __str__(self) -> str:
        return self.reason or "another rank received a stop signal"

    def set(self, number: int, frame: FrameType | None = None) -> None:
        self.reason = self.reason or signal.Signals(number).name


@dataclass(frozen=True)
class RunControl:
    """What can stop this process from outside: a signal, or a newer start of the same task (fencing).

    `end_stalled` ends a process whose work stands still (`stalls.watch`), and does not return; None: it exits.
    """

    stop: StopFlag
    fence: Fence
    end_stalled: Callable[[Ending], None] | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Let SIGTERM and SIGUSR2 set a flag inside the context; restore the previous handlers after it."""
    flag = StopFlag()
    previous = {number: signal.signal(number, flag.set) for number in STOPS}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def controlled(control: RunControl | None) -> Iterator[RunControl]:
    """Yield the caller's `control` (a SLURM job's) or, if None, one that listens to this process's signals."""
    if control is not None:
        yield control
        return
    with stop_on_signals() as stop:
        yield RunControl(stop, Unfenced())


def in_lockstep(items: Iterable[Item], ranks: Ranks, stop: StopFlag) -> Iterator[Item]:
    """Yield this rank's items in lockstep with the other ranks, which may have different numbers of items.

    Every rank returns when all ranks have run out. In the message by which the hosts agree on that before each item,
    they also say whether any rank received a signal.

    Raises:
        Preempted: a rank received a signal; raised on all ranks before the same item.
    """
    iterator = iter(items)
    for number in itertools.count():
        item = next(iterator, None)
        PULSE.mark(BATCH, number)
        left, stopping = ranks.any_of(item is not None, bool(stop))
        if not left:
            return
        if stopping:
            raise Preempted(f"{stop}")
        if item is not None:
            yield item
