"""Ask SLURM about jobs, batched: `squeue` for jobs in the queue, `sacct` for those that have left it.

Lines that are no record (a site's banner, `CLUSTER: name`) are skipped. squeue prints its header even if the queue is
empty, so that text without a header and without a record is no answer, but an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from harness.launch.slurm.commands import PATIENT, NoAnswerError, Patience, SlurmError, ask
from harness.storage.locks import user_name

Phase = Literal["queued", "running", "ended", "unknown"]

QUEUED = {
    "PENDING": "PD", "REQUEUED": "RQ", "REQUEUE_HOLD": "RH", "REQUEUE_FED": "RF", "RESV_DEL_HOLD": "RD",
    "SPECIAL_EXIT": "SE",
}  # fmt: skip
RUNNING = {
    "RUNNING": "R", "COMPLETING": "CG", "CONFIGURING": "CF", "STAGE_OUT": "SO", "SUSPENDED": "S", "STOPPED": "ST",
    "SIGNALING": "SI", "RESIZING": "RS", "EXPEDITING": "EX", "POWER_UP_NODE": "PU",
}  # fmt: skip
ENDED = {
    "COMPLETED": "CD", "CANCELLED": "CA", "FAILED": "F", "TIMEOUT": "TO", "NODE_FAIL": "NF", "PREEMPTED": "PR",
    "BOOT_FAIL": "BF", "DEADLINE": "DL", "OUT_OF_MEMORY": "OOM", "REVOKED": "RV", "LAUNCH_FAILED": "LF",
    "RECONFIG_FAIL": "RC",
}  # fmt: skip
"""SLURM's states and its codes for them. Only these of the last table say that a job has ended."""
NAMES = {name for table in (QUEUED, RUNNING, ENDED) for name in table}
CODES = {code: name for table in (QUEUED, RUNNING, ENDED) for name, code in table.items()}

CHUNK = 500  # names per query: an argument has at most 128 KiB
IDS = 5000  # ids per query, likewise
SACCT_SECONDS = 30.0  # accounting only adds to what squeue says
SACCT_DAYS = 7  # how far back accounting is searched for a name
NEVER = "DependencyNeverSatisfied"
REPLACED = "Replaced"  # of our own: a job that was cancelled because another does its work


IDENTIFIER = re.compile(r"(\d{1,12})(?:\+\d+)?(?:_([^\s;+]*))?(?:\+\d+)?(?:;\S*)?")
TASK = re.compile(r"\d{1,9}|\[.*")
STEP = re.compile(r"\.\w")


@dataclass(frozen=True)
class JobState:
    """One job or array task: SLURM's state, and the reason for it."""

    state: str  # SLURM's name, or `UNKNOWN` if SLURM no longer knows the job
    reason: str = ""

    @property
    def phase(self) -> Phase:
        """What the state means. A job that is listed in a state that is not known here may be running."""
        if self.state in QUEUED:
            return "queued"
        if self.state in ENDED:
            return "ended"
        return "unknown" if self.state == "UNKNOWN" else "running"

    @property
    def is_live(self) -> bool:
        """Whether the job is running or can still start."""
        return self.phase in ("queued", "running") and self.reason != NEVER

    @property
    def was_cancelled(self) -> bool:
        """Whether somebody cancelled the job: not SLURM because of a failed dependency, nor a newer submission."""
        return self.state == "CANCELLED" and self.reason not in (NEVER, REPLACED)


UNKNOWN = JobState("UNKNOWN")


@dataclass
class _Records:
    """States by job. A record of several array tasks holds for those that have none of their own."""

    single: dict[str, JobState] = field(default_factory=dict)  # by `123` or `123_4`
    ranges: dict[str, list[tuple[str, JobState]]] = field(default_factory=dict)  # by array: `[5-9%2]`

    def add(self, array: str, task: str, state: JobState) -> None:
        """Add a record, which replaces earlier ones of the same job."""
        if task.startswith("["):
            self.ranges.setdefault(array, []).append((task, state))
        else:
            self.single[f"{array}_{task}" if task else array] = state

    def state(self, job: str) -> JobState:
        array, _, task = job.partition("_")
        if job in self.single:
            return self.single[job]
        covering = [state for tasks, state in self.ranges.get(array, []) if _covers(tasks, task)]
        return covering[-1] if covering else self.single.get(array, UNKNOWN)


def states(
    jobs: Sequence[str],
    ended: Mapping[str, JobState] | None = None,
    users: Collection[str] = (),
    accounted: Collection[str] | None = None,
    patience: Patience = PATIENT,
) -> dict[str, JobState]:
    """The state of each job (`123` or `123_4`), `UNKNOWN` if neither command knows it.

    squeue takes precedence, then what was recorded; accounting is queried for the rest.

    Args:
        ended: how jobs ended, as recorded earlier.
        users: whose jobs to ask for besides this user's. SLURM may not show them.
        accounted: the jobs for which accounting is queried if squeue does not list them; None: all.

    Raises:
        SlurmError: squeue does not answer, so that a live job could be taken for a lost one.
    """
    if not jobs:
        return {}
    queued, ended = _from_squeue({_array(job) for job in jobs}, users, patience), ended or {}
    current = {job: queued.state(job) for job in jobs}
    current |= {job: ended[job] for job, state in current.items() if job in ended and _holds(ended[job], state)}
    gone = [job for job, state in current.items() if state is UNKNOWN and (accounted is None or job in accounted)]
    records = _from_sacct(sorted({_array(job) for job in gone}), patience)
    return current | {job: _if_ended(records.state(job)) for job in gone}


def _holds(recorded: JobState, queued: JobState) -> bool:
    """Whether what was recorded of a job still holds, by what squeue lists: nothing, or no cause of a cancellation."""
    return queued is UNKNOWN or (recorded.reason == REPLACED and not queued.is_live)


def find(names: Collection[str], users: Collection[str] = (), patience: Patience = PATIENT) -> dict[str, str]:
    """SLURM's ids of the jobs or arrays with these unique names; those that it has not taken are absent.

    Args:
        users: whose jobs to ask for besides this user's. SLURM may not show them.

    Raises:
        SlurmError: squeue does not answer, so that a job that SLURM has taken could be overlooked.
    """
    ordered = sorted(names)
    chunks = [ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK)]
    return {name: array for chunk in chunks for name, array in _find(chunk, users, patience).items()}


def _find(names: Sequence[str], users: Collection[str], patience: Patience) -> dict[str, str]:
    by_name = f"--name={','.join(names)}"
    command = ("squeue", _whose(users), "--states=all", by_name, "--format=%F|%j")
    printed = ask(*command, is_record=_is_named, patience=patience)
    ids = dict(_named(printed.splitlines(), names))
    if ids.keys() >= set(names):
        return ids
    since = f"--starttime=now-{SACCT_DAYS}days"
    accounted = _accounting(by_name, since, "--format=JobID,JobName", is_record=_is_named, patience=patience)
    return dict(_named(accounted, names)) | ids


def submitted_from(folder: Path) -> dict[str, str]:
    """Names of this user's live arrays and jobs, by id, whose script is in a folder of this one.

    Raises:
        SlurmError: squeue does not answer.
    """
    printed = ask("squeue", "--me", "--format=%F|%j|%o", is_record=_is_named)
    rows = (line.split("|", 2) for line in printed.splitlines() if line.count("|") >= 2)
    jobs = ((_identifier(job.strip()), name.strip(), Path(script.strip())) for job, name, script in rows)
    return {job[0]: name for job, name, script in jobs if job is not None and script.parent.parent == folder}


def _whose(users: Collection[str]) -> str:
    """The option by which squeue lists the jobs of this user, and of these."""
    return f"--user={','.join(sorted({user_name(), *users}))}" if users else "--me"


def _array(job: str) -> str:
    return job.split("_")[0]


def _if_ended(accounted: JobState) -> JobState:
    """Discard an accounting record unless the job has ended: squeue no longer has it, so any other record is stale."""
    return accounted if accounted.phase == "ended" else UNKNOWN


def _from_squeue(arrays: set[str], users: Collection[str], patience: Patience) -> _Records:
    """States from squeue, of all jobs of these users: squeue fails when asked for an id that has left the queue."""
    command = ("squeue", _whose(users), "--array", "--states=all", "--format=%A|%F_%K|%T|%r")
    printed = ask(*command, is_record=lambda line: _is_header(line) or _squeue_record(line), patience=patience)
    rows = [row for row in map(_squeue_record, printed.splitlines()) if row is not None and row[0] in arrays]
    records = _Records()
    for row in sorted(rows, key=lambda row: row[2].is_live):  # of two records of a job, one that is live counts
        records.add(*row)
    return records


def _from_sacct(arrays: Sequence[str], patience: Patience) -> _Records:
    """States from accounting; none where the cluster has no accounting, which is not an error."""
    records = _Records()
    for start in range(0, len(arrays), IDS):
        ids = ",".join(arrays[start : start + IDS])
        for line in _accounting("--format=JobID,State", "--jobs", ids, is_record=_sacct_record, patience=patience):
            row = _sacct_record(line)
            if row is not None:  # the newest record of a job comes last
                records.add(*row)
    return records


def _accounting(*arguments: str, is_record: Callable[[str], object], patience: Patience) -> list[str]:
    """The lines that sacct prints; none if it does not answer."""
    command = ("sacct", "--allocations", "--allusers", "--noheader", "--parsable2", *arguments)
    try:
        return ask(*command, is_record=is_record, patience=replace(patience, total=SACCT_SECONDS)).splitlines()
    except NoAnswerError as error:
        print(f"note: {error}; how jobs ended that squeue no longer lists is not known", file=sys.stderr, flush=True)
    except SlurmError:  # no accounting here
        pass
    return []


def _squeue_record(line: str) -> tuple[str, str, JobState] | None:
    """Array, task and state of `101|100_0|PENDING|Resources`; None for any other line. A reason may hold `|`."""
    number, job, state, reason = [*(part.strip() for part in line.split("|", 3)), "", "", ""][:4]
    identifier = _identifier(job)
    if identifier is None or _identifier(number) is None or line.count("|") < 2:
        return None
    return *identifier, JobState(_state(state), reason)


def _sacct_record(line: str) -> tuple[str, str, JobState] | None:
    """Array, task and state of `100_4|CANCELLED by 1000` or, of tasks that never began, `100_[5-9%2]|CANCELLED`."""
    job, _, text = line.partition("|")
    identifier, state = _identifier(job.strip()), _state(text)
    nobody = state == "CANCELLED" and " by " not in f"{text.lower()} "  # SLURM itself: a dependency failed
    return (*identifier, JobState(state, NEVER if nobody else "")) if identifier and text else None


def _is_header(line: str) -> bool:
    return line.split("|")[0].strip().upper() in ("JOBID", "ARRAY_JOB_ID")


def _is_named(line: str) -> bool:
    return _is_header(line) or bool("|" in line and _identifier(line.split("|")[0].strip()))


def _named(lines: Iterable[str], names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Name and array id of each line, such as `100|study-train-1f`, that has one of these names."""
    for line in lines:
        job, *values = (part.strip() for part in line.split("|"))
        identifier = _identifier(job)
        if identifier is not None:
            yield from ((value, identifier[0]) for value in values if value in names)


def _identifier(text: str) -> tuple[str, str] | None:
    """Array and task of `123`, `123_4`, `123_[5-9%2]`, `123_N/A`, `123+0` or `123;cluster`; None for other text.

    The task is empty for a whole array or a job that is none. A step (`123.batch`) is not its job.
    """
    match = IDENTIFIER.fullmatch(text)
    if match is None or STEP.search(text):
        return None
    task = match[2] or ""
    return match[1], task if TASK.fullmatch(task) else ""


@lru_cache(maxsize=1000)  # thousands of jobs are in a few states
def _state(text: str) -> str:
    """SLURM's name of a state: of `CANCELLED by 1000`, `OUT_OF_ME+` and `PD` too; a word that is not known as it is."""
    word = next(iter(text.upper().split()), "")
    name = CODES.get(word.rstrip("+"), word.rstrip("+"))
    if word.endswith("+") and name not in NAMES:
        whole = [known for known in NAMES if known.startswith(name)]
        name = whole[0] if len(whole) == 1 else word
    return "?" if name == UNKNOWN.state else name


def _covers(tasks: str, task: str) -> bool:
    """Whether `[1,5-9:2%2]` holds for an array task; a list that SLURM cut short may hold for any."""
    numbers = tasks[1:].split("]")[0].split("%")[0]
    parts = [re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?(?::(\d{1,9}))?", part) for part in numbers.split(",")]
    if not task or "]" not in tasks or None in parts:
        return True
    spans = [(int(part[1]), int(part[2] or part[1]), int(part[3] or 1)) for part in parts if part]
    return any(int(task) in range(first, last + 1, max(1, step)) for first, last, step in spans)
