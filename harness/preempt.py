"""Stopping in order: a signal sets a flag, and the loop acts on it at a step's boundary.

SIGUSR2 is what submitit sends before a time limit, SIGTERM what SLURM sends on preemption and the sweep on Ctrl-C.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Preempted(Exception):  # noqa: N818  (it is no error: the work is saved and goes on later)
    """The work was stopped at a step's boundary, after its checkpoint was written."""


class StopFlag:
    """Set by a signal, read by the loop."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is not None

    def set(self, number: int, frame: FrameType | None = None) -> None:
        self.reason = signal.Signals(number).name


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
