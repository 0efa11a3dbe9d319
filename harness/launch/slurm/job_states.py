"""What SLURM says of jobs, in one batched question: `squeue` for those it still holds, `sacct` for those that ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.launch.slurm.commands import SlurmError, ask

Phase = Literal["queued", "running", "ended", "unknown"]

QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}
CHUNK = 500  # ids in one question: a command line has its limit


@dataclass(frozen=True)
class JobState:
    """One job or array element: SLURM's state, and why it waits."""

    state: str  # SLURM's word, `UNKNOWN` where SLURM has forgotten the job
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
        """Whether the job may yet do its work."""
        return self.phase in ("queued", "running") and self.reason != "DependencyNeverSatisfied"


UNKNOWN = JobState("UNKNOWN")


def states(jobs: Sequence[str]) -> dict[str, JobState]:
    """The state of each job (`123` or `123_4`), `UNKNOWN` where neither command knows it.

    squeue's word counts; accounting is asked for what has left the queue.

    Raises:
        SlurmError: squeue does not answer, so that a live job could be taken for a lost one.
    """
    if not jobs:
        return {}
    queued = _from_squeue({_array(job) for job in jobs})
    found = {job: _known(queued, job) for job in jobs}
    forgotten = [job for job, state in found.items() if state is UNKNOWN]
    accounted = _from_sacct(sorted({_array(job) for job in forgotten}))
    return found | {job: _ended(_known(accounted, job)) for job in forgotten}


def _array(job: str) -> str:
    return job.split("_")[0]


def _known(found: dict[str, JobState], job: str) -> JobState:
    """An array cancelled before any element began is remembered as one job: its word holds for every element."""
    return found.get(job) or found.get(_array(job), UNKNOWN)


def _ended(account: JobState) -> JobState:
    """Accounting that still calls a job live which the queue has forgotten is stale."""
    return account if account.phase == "ended" else UNKNOWN


def _from_squeue(arrays: set[str]) -> dict[str, JobState]:
    """All of this user's jobs at once: asking for an id that has left the queue would be an error."""
    lines = ask("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%A|%F_%K|%T|%r").splitlines()
    found = {}
    for line in lines:
        number, job, state, reason = line.split("|", 3)
        array = _array(job)
        if array in arrays or number in arrays:
            found[array if job.endswith("_N/A") else job] = JobState(state, reason)
    return found


def _from_sacct(arrays: Sequence[str]) -> dict[str, JobState]:
    """From accounting, where the cluster keeps any and it answers; nothing is lost by going without."""
    found: dict[str, JobState] = {}
    for start in range(0, len(arrays), CHUNK):
        ids = ",".join(arrays[start : start + CHUNK])
        try:
            text = ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State", "--jobs", ids)
        except SlurmError:
            return {}
        found |= _parsed(text.splitlines())
    return found


def _parsed(lines: Iterable[str]) -> dict[str, JobState]:
    """`123_4|CANCELLED by 1000`, or `123_[5-9%2]|CANCELLED by 1000` for elements that never began.

    The newest row of a job comes last. Elements in brackets are held as the array: `_known` finds them there.
    """
    found = {}
    for line in lines:
        job, state = line.split("|", 1)
        found[_array(job) if "[" in job else job] = JobState(state.split()[0])
    return found
