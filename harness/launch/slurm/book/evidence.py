"""Evidence of live jobs of a study, so that nothing is submitted twice: what the submissions file and SLURM know, and
what neither may show to this user, heartbeats and fences in the cells' folders.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from harness.grid.cell_folder import CELLS
from harness.launch.slurm.book import last_answer
from harness.launch.slurm.book.entries import REPORT, Key, SubmittedArray
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.commands import PATIENT, Patience, SlurmError
from harness.launch.slurm.failures import printable
from harness.launch.slurm.heartbeat import Beat, heartbeat, read_beat
from harness.launch.slurm.job_states import UNKNOWN, JobState, states
from harness.storage.fencing import fence_file, read_fence
from harness.storage.locks import file_owner, user_name

SHOWN = 10  # jobs that a message names
AS_SUBMITTED = JobState("PENDING", "as submitted")
IS_JOB = re.compile(r"\d{1,12}(_\d{1,9})?")  # it becomes an argument of SLURM's commands


class UnaccountedError(RuntimeError):
    """Jobs of this study are or may be live that nothing may be submitted beside; the text says which, and whose."""


def known_states(
    output: Path, submissions: Submissions, jobs: Collection[str] | None = None, patience: Patience = PATIENT
) -> dict[str, JobState]:
    """The states of these jobs, or of all in the submissions file; they are kept for `last_known_states`.

    A job that SLURM does not show, but whose heartbeat is recent, is running. How others ended that squeue no longer
    lists is asked only of the newest job of each task, and of other users' jobs: nothing depends on the rest.

    Raises:
        SlurmError: squeue does not answer.
    """
    entries, own = submissions.entries, ("", user_name())
    asked = [job for entry in entries for job in entry.jobs] if jobs is None else list(jobs)
    foreign = [entry for entry in entries if entry.user not in own]
    users, ended = {entry.user for entry in foreign}, submissions.ended
    accounted = {newest.job for newest in submissions.latest().values()}
    accounted |= {job for entry in foreign for job in entry.jobs}
    known = states(asked, ended, users, accounted, patience)
    beating = _beating(output, entries, {job for job, state in known.items() if state is UNKNOWN})
    earlier = [job for job in beating if job not in accounted]  # perhaps it ended a moment ago
    known |= states(earlier, ended, users, patience=patience) if earlier else {}
    if known:
        last_answer.write(submissions.path.parent, known)
    return known | {job: JobState("RUNNING") for job in beating if known[job] == UNKNOWN}


def last_known_states(
    output: Path, submissions: Submissions, jobs: Collection[str]
) -> tuple[dict[str, JobState], datetime]:
    """The states of these jobs as far as files tell, and as of when: from the last answer, the submissions file, and
    heartbeats. A job that was submitted later is queued.
    """
    answer = last_answer.read(submissions.path.parent)
    known = (answer.states if answer else {}) | submissions.ended
    found = {job: known.get(job, AS_SUBMITTED) for job in jobs}
    silent = {job for job, state in found.items() if state.phase in ("queued", "unknown")}
    seconds = answer.time if answer else submissions.path.stat().st_mtime
    running = dict.fromkeys(_beating(output, submissions.entries, silent), JobState("RUNNING"))
    return found | running, datetime.fromtimestamp(seconds).astimezone()


def refuse_others(submissions: Submissions, known: Mapping[str, JobState], outcome: str) -> None:
    """Check that no job of another user is live, or is not known to have ended.

    Args:
        outcome: what follows, for the message: "nothing was submitted".

    Raises:
        UnaccountedError: one is.
    """
    others: dict[str, list[str]] = {}
    own = ("", user_name())
    for entry in submissions.entries:
        if entry.user in own:
            continue
        others.setdefault(entry.user, []).extend(_not_ended(entry, known))
    for user, jobs in others.items():
        if jobs:
            raise UnaccountedError(
                f"{submissions.path.parents[1]} holds a study of {user}, whose jobs are not known to have ended: "
                f"{_listed(jobs)}; {outcome}. {user} can cancel them; if they have ended, the next run or cancel of "
                f"{user} records it"
            )


def refuse_strangers(submissions: Submissions, strangers: Mapping[str, str]) -> None:
    """Check that no live job of this study is unknown.

    Args:
        strangers: names, by id, of live jobs that are not in the submissions file.

    Raises:
        UnaccountedError: one is.
    """
    if strangers:
        jobs = _listed(f"{job} ({name})" for job, name in strangers.items())
        raise UnaccountedError(
            f"SLURM runs or queues jobs from {submissions.path.parent} that {submissions.path.name} does not have and "
            f"whose folders are gone or damaged: {jobs}; nothing was submitted. `cancel` without cells ends them with "
            "the study's other jobs; then `resume` goes on from the checkpoints"
        )


@dataclass(frozen=True)
class Sign:
    """A sign of a job that may be working on a task of a cell: a recent heartbeat, or the newest fence."""

    cell: str
    task: str
    job: str
    user: str
    text: str
    is_recent: bool


def refuse_attended(output: Path, tasks: Iterable[Key], accounted: Collection[str]) -> None:
    """Check that no other job works on these tasks, by heartbeats and fences of jobs that are not accounted for.

    Args:
        accounted: jobs whose state is known.

    Raises:
        UnaccountedError: one does, or may; it is another user's, or SLURM no longer shows it to this one.
    """
    folder, begun = output / CELLS, _begun(output)
    signs = [sign for key in tasks if key[0] in begun for sign in _signs(folder / key[0], key)]
    signs = [sign for sign in signs if sign.job not in accounted]
    known = _states_or_unknown({sign.job for sign in signs}, {sign.user for sign in signs})
    for sign in signs:
        state = known[sign.job]
        if state.is_live or (state == UNKNOWN and (sign.is_recent or sign.user != user_name())):
            raise UnaccountedError(
                f"{sign.cell}: job {sign.job} of {sign.user} works on its stage {sign.task} or may do so: {sign.text}; "
                f"nothing was started. Wait for it, or let {sign.user} cancel it"
            )


def refuse_jobs(output: Path, tasks: Iterable[Key]) -> None:
    """Check, before cells run on this machine, that no job of a cluster works on this output or is queued for it.

    Raises:
        UnaccountedError: one is, or may be.
    """
    submissions = Submissions(output)
    jobs = [job for entry in submissions.entries for job in entry.jobs if job not in submissions.ended]
    try:
        known = known_states(output, submissions, jobs)
    except SlurmError:
        known = {}
    live = [job for job, state in known.items() if state.is_live]
    if live:
        raise UnaccountedError(
            f"jobs of a cluster are live for {output}: {_listed(live)}; nothing was started. `cancel` ends them"
        )
    refuse_attended(output, tasks, known.keys())


def _signs(folder: Path, key: Key) -> Iterator[Sign]:
    beat = read_beat(heartbeat(folder, key[1]))
    if beat.is_recent and IS_JOB.fullmatch(beat.job):
        where, user = f" from {printable(beat.host)}" if beat.host else "", printable(beat.user)
        yield Sign(*key, beat.job, user, f"it gave a sign of life {beat.age:.0f} s ago{where}", is_recent=True)
    path = fence_file(folder, key[1])
    holder = read_fence(path)
    if holder is not None and IS_JOB.fullmatch(holder.job):
        text = f"it was the last to start it, by {path} (delete that file if the job has ended)"
        yield Sign(*key, holder.job, file_owner(path), text, is_recent=False)


def _states_or_unknown(jobs: Collection[str], users: Collection[str]) -> dict[str, JobState]:
    """The states of jobs; all unknown where SLURM does not answer: then only a recent heartbeat is evidence."""
    try:
        return states(sorted(jobs), users={user for user in users if user})
    except SlurmError:
        return dict.fromkeys(jobs, UNKNOWN)


def _not_ended(entry: SubmittedArray, known: Mapping[str, JobState]) -> list[str]:
    """Jobs of an array that are live or not known, or its name if its id is not.

    Of a report job that is not known nothing is to be feared: it submits nothing beside another user's jobs.
    """
    if entry.stage == REPORT:
        return [job for job in entry.jobs if known[job].is_live]
    if entry.array is None:
        return [entry.name]
    return [job for job in entry.jobs if known[job].is_live or known[job] == UNKNOWN]


def _beating(output: Path, entries: Iterable[SubmittedArray], lost: Collection[str]) -> list[str]:
    """Those of the lost jobs that gave a sign of life of late. The heartbeat of a task tells of one job at most."""
    if not lost:
        return []
    begun, beats = _begun(output), dict[Key, Beat]()
    found = []
    for entry in entries:
        for cell, job in zip(entry.cells, entry.jobs, strict=False):  # no jobs if SLURM's id is not known
            if cell in begun and job in lost:
                key = cell, entry.stage
                if key not in beats:
                    beats[key] = read_beat(heartbeat(output / CELLS / cell, entry.stage))
                found += [job] if beats[key].job == job and beats[key].is_recent else []
    return found


def _begun(output: Path) -> set[str]:
    """The cells that have a folder: most of a new study's have not."""
    try:
        return {path.name for path in (output / CELLS).iterdir()}
    except FileNotFoundError:
        return set()


def _listed(jobs: Iterable[str]) -> str:
    named = list(jobs)
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more
