"""Where this process is in its work. The work marks each phase; a thread sees how long ago that was."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

START, DATA, STEP, AGREE, VALIDATE, SAVE, BATCH = "start", "data", "step", "agree", "validate", "save", "batch"
ORDER = (START, BATCH, DATA, STEP, AGREE, VALIDATE, SAVE)  # within a step
ENDED = 78  # exit status of a process that ends because its work stands still
LOST_CONNECTION = re.compile(r"gloo/transport|connection (closed|reset) by peer", re.IGNORECASE)
QUICK = (BATCH, DATA, STEP, AGREE)  # phases that a study has thousands of


def is_lost_connection(kind: str, message: str) -> bool:
    """Whether an exception, by its type's name and its text, is what a rank raises because another one has ended."""
    of_gloo = kind == "RuntimeError" and LOST_CONNECTION.search(message) is not None
    return of_gloo or kind in ("DistBackendError", "DistNetworkError", "DistStoreError")


@dataclass
class Pulse:
    """The phase that this process is in, since when, and how long its slowest quick phase took.

    The first quick phase of each kind is not counted: it may compile, or open a data set.
    """

    phase: str = START
    step: int = 0
    since: float = field(default_factory=time.monotonic)
    slowest: float = 0.0  # seconds
    _done: set[str] = field(default_factory=set)

    def mark(self, phase: str, step: int | None = None) -> None:
        """Enter a phase, of a step if it has changed."""
        now = time.monotonic()
        if self.phase in QUICK:
            if self.phase in self._done:
                self.slowest = max(self.slowest, now - self.since)
            self._done.add(self.phase)
        self.phase, self.since = phase, now
        self.step = self.step if step is None else step

    def begin(self) -> None:
        """Begin a piece of work; when the last one ended, and how long its phases took, says nothing of this one."""
        self.phase, self.step, self.since = START, 0, time.monotonic()
        self.slowest, self._done = 0.0, set()

    @property
    def is_usual(self) -> bool:
        """Whether this phase is a quick one that has been done before."""
        return self.phase in QUICK and self.phase in self._done

    @property
    def age(self) -> float:
        """Seconds since this phase began."""
        return time.monotonic() - self.since


PULSE = Pulse()  # a process does one piece of work at a time


@dataclass(frozen=True)
class Ending:
    """Why a process ends itself, and whether it is the one that speaks for all ranks."""

    text: str
    is_speaker: bool
    told_to_stop: bool  # by a signal that the stalled step could not act on
    step: int = 0  # at which the work stands still
