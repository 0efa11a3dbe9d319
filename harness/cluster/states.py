"""What SLURM says of jobs, in one batched question: `squeue` for those it still holds, `sacct` for those that ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.cluster.commands import SlurmError, ask

Phase = Literal["queued", "running", "ended", "unknown"]

QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}
CHUNK = 500  # ids in one question: a command line has its limit


@dataclass(frozen=True)
class JobState:
    """One job or array element: SLURM's state, why it waits, and how often it was restarted."""

    state: str  # SLURM's word, `UNKNOWN` where SLURM has forgotten the job
    reason: str = ""
    restarts: int = 0

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

    Raises:
        SlurmError: squeue does not answer, so that a live job could be taken for a lost one.
    """
    if not jobs:
        return {}
    found = _from_squeue({job.split("_")[0] for job in jobs})
    ended = [job for job in jobs if job not in found or found[job].phase == "ended"]
    found |= _from_sacct(sorted({job.split("_")[0] for job in ended}))
    return {job: found.get(job, UNKNOWN) for job in jobs}


def _from_squeue(arrays: set[str]) -> dict[str, JobState]:
    """All of this user's jobs at once: asking for an id that has left the queue would be an error."""
    lines = ask("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%A|%F_%K|%T|%r").splitlines()
    found = {}
    for line in lines:
        number, element, state, reason = line.split("|", 3)
        array = element.split("_")[0]
        if array in arrays or number in arrays:
            found[array if element.endswith("_N/A") else element] = JobState(state, reason)
    return found


def _from_sacct(arrays: Sequence[str]) -> dict[str, JobState]:
    """From accounting, where the cluster keeps any."""
    found: dict[str, JobState] = {}
    for start in range(0, len(arrays), CHUNK):
        ids = ",".join(arrays[start : start + CHUNK])
        fields = "--format=JobID,State,Restarts"
        try:
            text = ask("sacct", "--allocations", "--array", "--noheader", "--parsable2", "--jobs", ids, fields)
        except SlurmError:
            return {}  # no accounting here
        found |= _parsed(text.splitlines())
    return found


def _parsed(lines: Iterable[str]) -> dict[str, JobState]:
    """`123_4|CANCELLED by 1000|2` and the like; the newest row of a job comes last."""
    found = {}
    for line in lines:
        job, state, restarts = line.split("|", 2)
        found[job] = JobState(state.split()[0], restarts=int(restarts or 0))
    return found
