"""Run the sections that are missing, each in a process of its own, as long as their estimates fit into the time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.gpu_day.day import Entry, Section, Store

ATTEMPTS = 2  # after which a section that fails is left out
LONGER = 1.5  # times the time at which a section was cut off, as its next estimate
START_SECONDS = 10.0  # of a process: with less left, none begins, since it would only lose an attempt
Ends = Callable[[str, float], int | None]


@dataclass(frozen=True)
class Outcome:
    """What became of a section in this run: `kept` (of an earlier run), `done`, `failed`, `cut off`, `no time`."""

    name: str
    what: str
    seconds: float = 0.0


def run_sections(sections: list[Section], store: Store, seconds: float, run: Ends) -> Iterator[Outcome]:
    """Run what is missing in this order, and yield what became of each section.

    A section starts if its estimate fits into the rest of `seconds`; one that would not fit into all of it may start
    first. A shorter one further down the list may fill the rest.

    Args:
        run: (name, seconds it may take) → the exit status of its process, None if it was cut off. A section that has
            succeeded has written its entry.
    """
    end, started = time.monotonic() + seconds, False
    for section in sections:
        entry = store.read(section.name)
        if entry is not None and (entry.found is not None or entry.attempts >= ATTEMPTS):
            yield Outcome(section.name, "kept" if entry.found is not None else "failed", entry.seconds)
            continue
        left = end - time.monotonic()
        estimate = section.seconds if entry is None else max(section.seconds, entry.seconds)
        if estimate > left and (started or left < START_SECONDS):
            yield Outcome(section.name, "no time", estimate)
            continue
        if entry is not None:  # what the last attempt said is not what this one says
            store.write(replace(entry, error=None))
        started, began = True, time.monotonic()
        status = run(section.name, left)
        yield _outcome(section, store, status, time.monotonic() - began, entry)


def _outcome(section: Section, store: Store, status: int | None, seconds: float, before: Entry | None) -> Outcome:
    after = store.read(section.name)
    if status == 0 and after is not None and after.found is not None:
        return Outcome(section.name, "done", seconds)
    attempts = 1 + (before.attempts if before else 0)
    if status is None:
        store.write(Entry(section.name, LONGER * seconds, None, f"cut off after {seconds:.0f} s", attempts))
        return Outcome(section.name, "cut off", seconds)
    why = (after.error if after is not None else None) or f"its process ended with status {status}"
    store.write(Entry(section.name, seconds, None, why, attempts))
    return Outcome(section.name, "failed", seconds)


def in_process(arguments: list[str]) -> Ends:
    """Run a section as `python -m benchmarks.gpu_day --section NAME` with these arguments, and end its children too."""

    def run(name: str, seconds: float) -> int | None:
        command = [sys.executable, "-m", "benchmarks.gpu_day", *arguments, "--section", name]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    return run
