"""The submissions file: which SLURM job runs which task of which grid cell. Written before and after each submission.

It is `<output>/jobs/book.jsonl`, a log of lines (`lines.py`). An array without a job id was being submitted when its
writer died, or when SLURM did not answer; the array's unique name shows if SLURM accepted it. A damaged line costs
nothing but itself, and what it said is looked up again: arrays in their folders, their ids and states in SLURM.

Earlier versions wrote `book.json`, which is converted when it is next locked. What is left in its place is refused by
jobs that still run the earlier code, so that they do not submit by an old state.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from harness.launch.slurm.book import lines
from harness.launch.slurm.book.earlier import read_earlier, retire
from harness.launch.slurm.book.entries import Key, Submitted, SubmittedArray
from harness.launch.slurm.book.folders import unrecorded_arrays
from harness.launch.slurm.book.lines import (
    Accepted,
    Book,
    Cancelled,
    Dropped,
    Ended,
    Line,
    Planned,
    Resumed,
    Throttled,
)
from harness.launch.slurm.commands import PATIENT, Patience
from harness.launch.slurm.failures import printable
from harness.launch.slurm.job_states import JobState, find, submitted_from
from harness.storage.atomic import write_atomic
from harness.storage.locks import locked, user_name


class Submissions:
    """What the submissions file says. Change it only while holding `locked`."""

    def __init__(self, output: Path) -> None:
        """Read the file, and what it lacks from the arrays' folders; nothing is written.

        Raises:
            ValueError: the file cannot be read at all; the text names it.
        """
        self.path = output / "jobs" / "book.jsonl"
        self._latest: tuple[Sequence[SubmittedArray], Mapping[Key, Submitted]] | None = None
        self._load()

    def _load(self, before: lines.Reading | None = None) -> None:
        self._earlier = self.path.with_suffix(".json")
        self._reading = lines.read(self.path, before) if self.path.exists() else read_earlier(self._earlier)
        self._book = Book(self._reading.lines)
        self._unrecorded = [Planned(array) for array in unrecorded_arrays(self.path.parent, self._book.planned)]
        for line in self._unrecorded:
            self._book.add(line)

    @property
    def entries(self) -> Sequence[SubmittedArray]:
        """The arrays that SLURM has taken or may have taken, in order of submission."""
        return self._book.entries()

    @property
    def ended(self) -> dict[str, JobState]:
        """How jobs ended, as far as that was recorded."""
        recorded = {job: JobState(state, reason) for job, (state, reason) in self._book.ended.items()}
        return {job: state for job, state in recorded.items() if state.phase == "ended"}

    @property
    def cancelled(self) -> Mapping[str, Cancelled]:
        """Cells that are not submitted again before somebody asks for it."""
        return self._book.cancelled

    @property
    def damage(self) -> list[str]:
        """What is wrong with the file, one text for each damaged line but one that may just be being written."""
        return self._texts(self._reading.damaged[:-1] if self._reading.is_open else self._reading.damaged)

    def _texts(self, damaged: Iterable[tuple[int, str]]) -> list[str]:
        path = self.path if self.path.exists() else self._earlier
        return [f"{path}:{number}: not a line of a submissions file ({why})" for number, why in damaged]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait for the lock that all sweeps of this study share, read the file again, repair it, and hold the lock.

        Raises:
            SlurmError: a submission was interrupted, and squeue does not say whether SLURM took it.
        """
        with locked(self.path.parent / "book.lock", "another command for the jobs of this study"):
            self._load(self._reading)
            self._repair()
            yield

    def plan(self, array: SubmittedArray) -> None:
        """Record an array that is about to be submitted."""
        self._append(Planned(array))

    def submitted(self, name: str, array: str) -> None:
        """Record the id that SLURM assigned."""
        self._append(Accepted(name, array))

    def drop(self, name: str) -> None:
        """Record that SLURM has not taken an array."""
        self._append(Dropped(name))

    def set_throttle(self, name: str, throttle: int) -> None:
        """Record an array's changed throttle."""
        self._append(Throttled(name, throttle))

    def cancel(self, cells: Iterable[str]) -> None:
        """Record that these cells are not to be submitted before somebody asks for it."""
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        named = tuple(cells)
        if named:
            self._append(Cancelled(named, user_name(), now))

    def resume(self, cells: Iterable[str]) -> None:
        """Record that these cells may be submitted again."""
        named = tuple(cell for cell in cells if cell in self.cancelled)
        if named:
            self._append(Resumed(named))

    def record_ended(self, known: Mapping[str, JobState]) -> None:
        """Record how jobs ended, or that a job that had ended is live again, as far as that is not recorded yet."""
        recorded = self._book.ended
        states = {
            job: (state.state, printable(state.reason))
            for job, state in known.items()
            if state.phase == "ended" or (job in recorded and state.is_live)
        }
        changed = {job: state for job, state in states.items() if state != recorded.get(job)}
        if changed:
            self._append(Ended(changed))

    def latest(self) -> Mapping[Key, Submitted]:
        """The newest submission of each task of each cell."""
        if self._latest is None or self._latest[0] is not self.entries:
            self._latest = self.entries, _newest(self.entries)
        return self._latest[1]

    def adopt(self) -> dict[str, str]:
        """Record live jobs that SLURM took after it had been asked in vain for their names.

        Returns:
            Names, by id, of this user's live jobs from this study's folders whose line and folder are both lost.

        Raises:
            SlurmError: squeue does not answer.
        """
        arrays = {entry.array for entry in self.entries}
        live = submitted_from(self.path.parent.resolve())
        unrecorded = {job: name for job, name in live.items() if job not in arrays}
        for job, name in unrecorded.items():
            if name in self._book.planned:
                self.submitted(name, job)
        return {job: name for job, name in unrecorded.items() if name not in self._book.planned}

    def look_up(self, patience: Patience = PATIENT) -> None:
        """Complete arrays without an id with the one that SLURM has for their name, in memory only.

        Raises:
            SlurmError: squeue does not answer.
        """
        for name, array in self._found(patience).items():
            self._book.add(Accepted(name, array))

    def _found(self, patience: Patience = PATIENT) -> dict[str, str]:
        unfinished = [entry for entry in self.entries if entry.array is None]
        users = {entry.user for entry in unfinished} - {"", user_name()}
        return find([entry.name for entry in unfinished], users, patience) if unfinished else {}

    def _append(self, line: Line) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines.append(self.path, line)
        self._book.add(line)

    def _repair(self) -> None:
        """Write down what was read elsewhere, and ask SLURM about arrays without an id.

        Raises:
            SlurmError: squeue does not answer.
        """
        for text in self._texts(self._reading.damaged):
            print(f"note: {text}; what it said is looked up in folders and in SLURM", file=sys.stderr, flush=True)
        if self._reading.damaged or (self._reading.lines and not self.path.exists()):
            self._rewrite()
        if self._earlier.exists():
            retire(self._earlier)
        for line in self._unrecorded:
            lines.append(self.path, line)
        self._resolve_unfinished()

    def _rewrite(self) -> None:
        """Write the lines that could be read, and keep a damaged file under another name."""
        if self._reading.damaged and self.path.exists():
            aside = self.path.with_name(f"book.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl")
            shutil.copyfile(self.path, aside)
        content = b"".join(lines.encoded(line) for line in self._reading.lines)
        write_atomic(self.path, lambda file: file.write(content))

    def _resolve_unfinished(self) -> None:
        """Record ids of arrays that have none, and drop those that SLURM does not know.

        Those of another user are kept: SLURM may not show them to this one.
        """
        unfinished, arrays = [entry for entry in self.entries if entry.array is None], self._found()
        for entry in unfinished:
            if entry.name in arrays:
                self.submitted(entry.name, arrays[entry.name])
            elif entry.user in ("", user_name()):
                self.drop(entry.name)


def _newest(entries: Sequence[SubmittedArray]) -> dict[Key, Submitted]:
    """The newest submission of each task of each cell among these."""
    newest: dict[Key, tuple[int, SubmittedArray, int]] = {}
    for entry in entries:
        if entry.array is not None:
            for position, (cell, attempt) in enumerate(zip(entry.cells, entry.attempts, strict=True)):
                earlier = newest.get((cell, entry.stage))
                if earlier is None or earlier[0] <= attempt:  # a line that was restored comes late
                    newest[cell, entry.stage] = attempt, entry, position
    folders = {entry.folder: Path(entry.folder) for entry in entries}
    return {
        key: Submitted(entry.job(position), attempt, folders[entry.folder], entry.user)
        for key, (attempt, entry, position) in newest.items()
    }
