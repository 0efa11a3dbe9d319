"""How long training steps take on this host, and how much of that they wait for data; nothing waits for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Lap(NamedTuple):
    """Seconds of the steps of an interval, and those of them in which the loop waited for data."""

    seconds: float
    waited: float


class StepClock:
    """Counts the time of steps. What is done between them, such as a validation, is left out."""

    def __init__(self) -> None:
        self.start_clock()

    def start_clock(self) -> None:
        """Begin to count time: call it when the first batch has arrived, as before it nothing is trained."""
        self._since, self._waited, self._outside = time.perf_counter(), 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent inside as time that the loop waited for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def outside_steps(self) -> Iterator[None]:
        """Leave the time spent inside (a validation, a save) out. The device has finished its steps."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._outside += time.perf_counter() - start

    def lap(self) -> Lap:
        """End an interval, and begin the next."""
        now = time.perf_counter()
        lap = Lap(max(now - self._since - self._outside, 1e-9), self._waited)
        self._since, self._waited, self._outside = now, 0.0, 0.0
        return lap
