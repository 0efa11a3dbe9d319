"""Query the states of jobs, batched: `squeue` for jobs in the queue, `sacct` for those that have left it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.launch.slurm.commands import SlurmError, ask

Phase = Literal["queued", "running", "ended", "unknown"]

QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}
CHUNK = 500  # ids per query: a command line has a length limit


@dataclass(frozen=True)
class JobState:
    """One job or array task: SLURM's state, and the reason for it."""

    state: str  # SLURM's name, or `UNKNOWN` if SLURM no longer knows the job
    reason: str = ""

    @property
    def phase(self) -> Phase:
        if self.state in QUEUED:
            return "queued"
        if self.state in RUNNING:
            return "running"
        return "unknown" if self.state == "UNKNOWN" else "ended"

    @property
    def is_live(self) -> bool:
        """Whether the job is running or can still start."""
        return self.phase in ("queued", "running") and self.reason != "DependencyNeverSatisfied"


UNKNOWN = JobState("UNKNOWN")


def states(jobs: Sequence[str]) -> dict[str, JobState]:
    """The state of each job (`123` or `123_4`), `UNKNOWN` if neither command knows it.

    squeue takes precedence; accounting is queried for jobs that have left the queue.

    Raises:
        SlurmError: squeue does not answer, so that a live job could be taken for a lost one.
    """
    if not jobs:
        return {}
    queued = _from_squeue({_array(job) for job in jobs})
    current = {job: _lookup(queued, job) for job in jobs}
    gone = [job for job, state in current.items() if state is UNKNOWN]
    accounted = _from_sacct(sorted({_array(job) for job in gone}))
    return current | {job: _if_ended(_lookup(accounted, job)) for job in gone}


def _array(job: str) -> str:
    return job.split("_")[0]


def _lookup(records: dict[str, JobState], job: str) -> JobState:
    """A job's state. An array cancelled before any task began has one record, which holds for every task."""
    return records.get(job) or records.get(_array(job), UNKNOWN)


def _if_ended(accounted: JobState) -> JobState:
    """Discard an accounting record that still has a job as live: squeue no longer has it, so the record is stale."""
    return accounted if accounted.phase == "ended" else UNKNOWN


def _from_squeue(arrays: set[str]) -> dict[str, JobState]:
    """States from squeue, of all of this user's jobs: squeue fails when asked for an id that has left the queue."""
    lines = ask("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%A|%F_%K|%T|%r").splitlines()
    records = {}
    for line in lines:
        number, job, state, reason = line.split("|", 3)
        array = _array(job)
        if array in arrays or number in arrays:
            records[array if job.endswith("_N/A") else job] = JobState(state, reason)
    return records


def _from_sacct(arrays: Sequence[str]) -> dict[str, JobState]:
    """States from accounting; none where the cluster has no accounting, which is not an error."""
    records: dict[str, JobState] = {}
    for start in range(0, len(arrays), CHUNK):
        ids = ",".join(arrays[start : start + CHUNK])
        try:
            text = ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State", "--jobs", ids)
        except SlurmError:
            return {}
        records |= _parse(text.splitlines())
    return records


def _parse(lines: Iterable[str]) -> dict[str, JobState]:
    """Parse `123_4|CANCELLED by 1000`, or `123_[5-9%2]|CANCELLED by 1000` for array tasks that never began.

    The newest row of a job comes last. Array tasks in brackets are stored under the array's id; see `_lookup`.
    """
    records = {}
    for line in lines:
        job, state = line.split("|", 1)
        records[_array(job) if "[" in job else job] = JobState(state.split()[0])
    return records
