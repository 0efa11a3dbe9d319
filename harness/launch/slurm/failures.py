"""Why a task of a grid cell failed, and whether trying again can help.

A process that raises writes `failures/<task>-<attempt>-<rank>.json` into its cell's folder; for one that is killed,
only SLURM's state is known. A transient failure is retried; a permanent one only with `resume --force`, and what
somebody cancelled with `resume`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from harness.distributed.stalls.pulse import is_lost_connection
from harness.launch.slurm.book.entries import Submitted
from harness.launch.slurm.heartbeat import heartbeat, read_beat
from harness.launch.slurm.job_states import NEVER, JobState
from harness.storage.atomic import write_json

Verdict = Literal["transient", "permanent", "cancelled"]
"""Whether trying again can help; what somebody cancelled is not tried again before somebody asks for it."""

TRANSIENT = {
    "PREEMPTED": "preempted",
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "a node failed to boot",
    "TIMEOUT": "the time limit",
    "DEADLINE": "the deadline",
    "CANCELLED": "replaced by a newer submission",
    "REVOKED": "revoked",
}
TAIL_BYTES = 8192
TELLING = re.compile(
    r"error|fatal|killed|denied|not found|no such|no space|quota|cannot|failed|invalid|traceback|out of memory",
    re.IGNORECASE,
)
TOLD_TO_STOP = "User defined signal 2"  # what srun says of a process that does not listen to it yet
UNREADABLE, STALLED, STOPPED = "Unreadable", "Stalled", "Preempted"
LAST = (UNREADABLE, STALLED, STOPPED)  # kinds that count only if no rank raised anything else
SAVED = ("Fenced", STALLED, STOPPED)  # kinds of a rank that did what it was told to


@dataclass(frozen=True)
class Failure:
    """What one rank raised."""

    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="forbid")

    stage: str
    attempt: int
    rank: int
    job: str
    kind: str
    message: str
    trace: str
    restart: int = 0  # how often SLURM had restarted the job

    @property
    def is_consequence(self) -> bool:
        """Whether a rank raises this because another one has ended: never the first cause, if any rank raised else."""
        return is_lost_connection(self.kind, self.message)


_FAILURE = TypeAdapter(Failure)


@dataclass(frozen=True)
class Cause:
    """Why a task failed, in one line, and whether trying again can help."""

    text: str
    verdict: Verdict


def record_failure(folder: Path, failure: Failure) -> None:
    """Write what a rank raised into its cell's folder; on a full disk, to stderr, whose end `last_words` reads."""
    path = folder / "failures" / f"{failure.stage}-{failure.attempt}-{failure.rank}.json"
    try:
        write_json(path, asdict(failure))
    except OSError as error:
        print(f"{path}: {error.strerror}; error: {failure.kind}: {failure.message}", file=sys.stderr, flush=True)


def forget_stop(folder: Path, task: str, attempt: int) -> None:
    """Remove the record that an attempt was stopped, because SLURM has started it again."""
    path = folder / "failures" / f"{task}-{attempt}-0.json"
    if path.exists() and _read(path, task, attempt).kind == STOPPED:
        path.unlink()


def stops(folder: Path, task: str) -> int:
    """How many attempts at a task ended because they were told to stop, after a save: they did not fail."""
    records = [_read(path, task, 0) for path in folder.glob(f"failures/{task}-*-0.json")]
    return sum(record.kind == STOPPED for record in records)


def first_failure(folder: Path, stage: str, attempt: int) -> Failure | None:
    """What the first failing rank of an attempt raised, not what other ranks raised because of it; None if nothing.

    Of the restarts of a job that SLURM requeued, the last one counts in which a rank raised.
    """
    paths = sorted(folder.glob(f"failures/{stage}-{attempt}-*.json"), key=lambda path: path.stat().st_mtime_ns)
    records = [_read(path, stage, attempt) for path in paths]
    last = max((failure.restart for failure in records), default=0)
    failures = [failure for failure in records if failure.restart == last]
    causes = [failure for failure in failures if not failure.is_consequence and failure.kind not in LAST]
    return next(iter([*causes, *failures]), None)


def _read(path: Path, stage: str, attempt: int) -> Failure:
    """A recorded failure; of a record that is damaged, that it is so: the rank did fail."""
    try:
        return _FAILURE.validate_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        text = f"{path} is not the record of a failure: {str(error).splitlines()[0]}"
        return Failure(stage, attempt, 0, "", UNREADABLE, text, text)


def printable(text: str) -> str:
    """One line of a table: bounded, and without characters that control a terminal."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:500])
    return shown if len(text) <= 500 else f"{shown}..."


def cause_of(folder: Path, task: str, submitted: Submitted, state: JobState) -> Cause:
    """Why a cell's newest job ended without a result, from its record, its heartbeat and its log."""
    failure, beat = first_failure(folder, task, submitted.attempt), read_beat(heartbeat(folder, task), submitted.job)
    if failure is not None and failure.restart < beat.restart:
        failure = None  # the job was requeued, and began again: it did not end for that
    return cause(state, failure, began=bool(beat.job), said=last_words(submitted.folder, submitted.job))


def last_words(folder: Path, job: str) -> str:
    """The line at the end of a job's error log that tells most: the last that speaks of an error, else the last one.

    Empty if there is no log, or nothing in it.
    """
    try:
        text = _tail(folder / f"{job}_0_log.err")  # of the first rank, of srun, and of the script before it
    except OSError:
        return ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    telling = [line for line in lines if TELLING.search(line)]
    return printable((telling or lines or [""])[-1])


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def cause(state: JobState, failure: Failure | None, *, began: bool = True, said: str = "") -> Cause:
    """Why an attempt ended without a result.

    Args:
        state: of its job.
        failure: what its first failing rank raised.
        began: whether the job came as far as this program. One that did not will not the next time.
        said: the last words of its log.
    """
    if state.state == "OUT_OF_MEMORY":
        return Cause("out of memory", "permanent")
    if failure is not None and failure.kind == STALLED and not state.was_cancelled:
        return Cause(printable(f"stalled: {failure.message}"), "transient")
    if failure is not None and not failure.is_consequence and failure.kind not in SAVED:
        return Cause(printable(f"{failure.kind}: {failure.message}".splitlines()[0]), "permanent")
    if state.was_cancelled:
        return Cause("cancelled", "cancelled")
    if state.reason == NEVER:
        return Cause("a job that it depends on failed", "transient")
    if state.state in TRANSIENT:
        return Cause(TRANSIENT[state.state], "transient")
    if failure is not None and failure.kind == STOPPED:
        return Cause(printable(f"told to stop: {failure.message}"), "transient")
    if not began and TOLD_TO_STOP in said:
        return Cause("told to stop while it was starting", "transient")
    if state.state == "UNKNOWN":
        return Cause("lost: SLURM no longer knows the job", "transient")
    words = f": {said}" if said else ""
    if not began and failure is None and state.state == "FAILED":
        return Cause(f"{state.state.lower()} before it began{words or ', and its log is empty'}", "permanent")
    return Cause(f"{state.state.lower()}, and no reason was recorded{words or ': killed?'}", "transient")
