"""A thread of each rank that notices when its work stands still, says which rank is missing, and ends the job.

A rank that hangs without dying keeps all others in a collective. Each rank's stacks are written beside the message. A
stop signal that a stalled step cannot act on ends the process, too: the last checkpoint stays. It never ends a save,
which is what such a signal asks for.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.distributed.preemption import STOPS, RunControl
from harness.distributed.ranks import Ranks
from harness.distributed.stalls.board import Board, Late, Place, who_is_late
from harness.distributed.stalls.pulse import ENDED, PULSE, SAVE, VALIDATE, Ending, is_lost_connection
from harness.storage.health.stall import STACKS, STALL, Stall, read_stall, write_stall

TURN_SECONDS, LONGEST_TURN = 0.1, 10.0  # that a rank waits for those before it to speak


@dataclass(frozen=True)
class Limits:
    """Seconds after which a phase is said to stand still, and after which the process ends."""

    beat: float = 5.0  # between two looks
    usual: float = 30.0  # of a step or batch, or `times` the slowest so far
    times: float = 4.0
    first: float = 600.0  # of a phase that was not done before: it may compile or open a data set
    long: float = 300.0  # of a validation or a save
    end: float | None = 1800.0

    def tell(self) -> float:
        """For the phase that this process is in."""
        if PULSE.phase in (VALIDATE, SAVE):
            return self.long
        return max(self.usual, self.times * PULSE.slowest) if PULSE.is_usual else self.first


def leave(ending: Ending) -> None:
    """End this process at once: its main thread may never return."""
    if ending.is_speaker:
        print(ending.text, file=sys.stderr, flush=True)
    os._exit(ENDED)


class StallWatch(threading.Thread):
    """See the module. `end` is called at the limit and does not return."""

    def __init__(
        self, folder: Path, ranks: Ranks, control: RunControl, limits: Limits, end: Callable[[Ending], None],
        signals: int | None,
    ) -> None:  # fmt: skip
        super().__init__(name="stall-watch", daemon=True)
        self._folder, self._rank, self._control, self._limits, self._end = folder, ranks.rank, control, limits, end
        self._board, self._signals = Board.of(ranks), signals
        self._ended, self._told = threading.Event(), False
        self._beats, self._late = 0, Late(0, "this process stands still")
        self._silenced = False  # whether rank 0, and with it the board, has stopped answering
        self._speaks = False

    def run(self) -> None:
        self._beat()
        while not self._ended.wait(self._limits.beat):
            self._look()

    def close(self) -> None:
        """Stop looking, and take back what was said, once the thread says no more."""
        self._ended.set()
        self.join()
        self._take_back()

    def end_if_stalled(self, error: Exception) -> None:
        """End this process for a stall that was told, where another rank has ended for it first.

        What this one raises then, a lost connection, says nothing of why. Where stalls are only said, that needs a stop
        that waits for the stalled step.
        """
        lost = is_lost_connection(type(error).__name__, str(error))
        stopping = bool(self._control.stop)
        if lost and self._told and (stopping or self._limits.end is not None):
            self._finish(PULSE.age, told_to_stop=stopping)

    def _look(self) -> None:
        self._beat()
        self._hear()
        age, stopping = PULSE.age, bool(self._control.stop)
        if age > self._limits.tell():
            if not self._told:
                self._tell(age)
            if stopping and PULSE.is_usual:
                self._finish(age, told_to_stop=True)
            if self._limits.end is not None and age > self._limits.end:
                self._finish(age, told_to_stop=False)
        elif self._told:
            self._take_back()

    def _hear(self) -> None:
        """Set the stop flag for a signal whose handler cannot run, because the main thread is in a collective."""
        if self._signals is None:
            return
        with suppress(BlockingIOError):
            for number in os.read(self._signals, 64):
                if number in STOPS:
                    self._control.stop.set(number)

    def _beat(self) -> None:
        self._beats += 1
        if self._board is None or self._silenced:
            return
        try:
            self._board.write(Place.here(self._beats, PULSE.phase, PULSE.step))
        except TimeoutError:
            self._silenced = True

    def _tell(self, age: float) -> None:
        """Write this rank's stacks, and say on the first rank that can whom the step waits for."""
        self._told = True
        stacks = self._folder / STACKS / f"rank-{self._rank}.txt"
        with suppress(OSError):
            stacks.parent.mkdir(parents=True, exist_ok=True)
            with stacks.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        since = PULSE.since
        self._late = self._find()
        self._speaks = self._is_speaker()
        if self._speaks and PULSE.since == since:
            text = f"{self._what(age)}: {self._late.text}"
            print(f"{text}; stacks are in {stacks.parent}", file=sys.stderr, flush=True)
            with suppress(OSError):
                write_stall(self._folder, Stall(text, time.time() - age), PULSE.step)

    def _find(self) -> Late:
        if self._board is None:
            return self._late
        try:
            before = self._board.read()
            for _ in range(3):  # so that every rank has the time for a beat
                self._ended.wait(self._limits.beat)
                self._beat()
            return who_is_late(before, self._board.read())
        except TimeoutError:
            self._silenced = True
            return Late(None, "rank 0, which keeps what ranks tell each other, is not answering")

    def _is_speaker(self) -> bool:
        """Whether this rank speaks; where none is known to, the first that comes, in the order of ranks."""
        if self._is_ended():
            return False
        if self._late.speaker is not None:
            return self._late.speaker == self._rank
        self._ended.wait(min(TURN_SECONDS * self._rank, LONGEST_TURN))
        return not (self._folder / STALL).exists()

    def _is_ended(self) -> bool:
        """Whether another rank has ended the job: this one was stopped, and wakes because its job is being ended."""
        stall = read_stall(self._folder)
        return stall is not None and stall.is_ended

    def _what(self, age: float) -> str:
        return f"phase {PULSE.phase} of step {PULSE.step} has stood still for {age:.0f} s"

    def _take_back(self) -> None:
        if self._told and self._speaks:
            print(f"step {PULSE.step}: goes on", file=sys.stderr, flush=True)
            with suppress(OSError):
                (self._folder / STALL).unlink(missing_ok=True)
        self._told = False

    def _finish(self, age: float, *, told_to_stop: bool) -> None:
        why = "told to stop, but " if told_to_stop else ""
        text = f"{why}{self._what(age)}: {self._late.text}; the last checkpoint stays"
        speaks = self._speaks and not self._is_ended()
        if speaks:
            with suppress(OSError):
                write_stall(self._folder, Stall(text, time.time() - age, is_ended=True), PULSE.step)
        self._end(Ending(text, speaks, told_to_stop, PULSE.step))


@contextmanager
def watched(
    folder: Path, ranks: Ranks, control: RunControl, minutes: float | None, limits: Limits | None = None
) -> Iterator[None]:
    """Watch this process's work while the context lasts.

    Args:
        folder: of the cell; a stall is said there for `status`, and stacks are written to it.
        ranks: of the job.
        control: its stop flag, and what ends a stalled job.
        minutes: `launch.stall_minutes`; None: stalls are said and never ended.
        limits: for tests.
    """
    end = None if minutes is None else 60 * minutes
    PULSE.begin()
    if ranks.is_first:
        (folder / STALL).unlink(missing_ok=True)  # of an earlier job, which could not take it back
    with _signals() as signals:
        watch = StallWatch(folder, ranks, control, limits or Limits(end=end), control.end_stalled or leave, signals)
        watch.start()
        try:
            yield
        except Exception as error:
            watch.end_if_stalled(error)
            raise
        finally:
            watch.close()


@contextmanager
def _signals() -> Iterator[int | None]:
    """A file descriptor from which the numbers of this process's signals are read, also while Python cannot run them.

    None outside the main thread, which alone gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    read, write = os.pipe()
    for end in (read, write):
        os.set_blocking(end, False)
    previous = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(previous)
        os.close(read)
        os.close(write)
