"""Run SLURM's commands with a time limit, again if SLURM is slow; errors carry SLURM's own text.

What is printed is read tolerantly: sites put banners around it, and wrap the commands. If SLURM cannot be reached, a
question is asked again, as often as its `Patience` says. Any other error is final. A submission is never repeated: see
`executor.py`.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.recipe.load import UNCONFIGURED

SECONDS = 60.0  # for one try
PAUSES = (1.0, 3.0, 9.0)  # seconds between tries
MOST_SHOWN = 2000  # characters of an error
DEFAULT_MAX_ARRAY = 1001  # SLURM's own default

FILTERS = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_")
"""Environment variables with users' own defaults, which would hide jobs (`SQUEUE_PARTITION`, `SCANCEL_STATE`)."""

SLOW = re.compile(
    r"timed out|unable to (?:contact|connect|resolve)|temporarily|temporary failure|try again|not responding|"
    r"connection (?:refused|reset|fail)|communications? (?:error|fail|connection)|persistent connection|broken pipe|"
    r"talking to the database|standby mode|no route to host|network is unreachable|transport endpoint|zero bytes were|"
    r"message (?:receive|send) failure|(?:rate|rpc) limit|munge (?:encode|decode) failed",
    re.IGNORECASE,
)
"""What SLURM says when it cannot be reached or is overloaded; the same question may be answered a little later."""

ERROR = re.compile(r"\s*(?:(?:s[a-z]+: )?(?:error|fatal): |slurm_\w+ error|allocation failure)", re.IGNORECASE)
OWN = re.compile(rf"{ERROR.pattern}|\s*s(?:queue|acct|batch|info|control|cancel): ", re.IGNORECASE)
ENDED = re.compile(
    r"invalid job id specified|already completing or completed|already (?:finished|completed)|"
    r"job is pending execution",
    re.IGNORECASE,
)
"""What SLURM says of a job that has ended, or is back in the queue, by the time a command about it arrives."""

LIMIT = re.compile(r"\b(?:Assoc|QOS)\w*Submit\w*Limit\b")
"""SLURM's names of limits on the number of jobs that are queued or run: `AssocMaxSubmitJobLimit`."""

TERMINAL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]"
)


ELSEWHERE = "ask from a node of the cluster, or choose --profile laptop"


class SlurmError(RuntimeError):
    """A SLURM command failed or did not answer; the text is SLURM's."""


class LimitError(SlurmError):
    """A limit on the number of a user's jobs leaves no place for these now; `limit` is SLURM's name of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        named = LIMIT.search(text)
        self.limit = named[0] if named else "a limit on submitted jobs"


class NoAnswerError(SlurmError):
    """SLURM could not be reached or was too slow. Whether it did what it was asked to do is not known."""


@dataclass(frozen=True)
class Patience:
    """How often a question is asked, and for how long.

    Attributes:
        tries: at most.
        each: seconds for one try.
        total: seconds for all, pauses included.
    """

    tries: int
    each: float
    total: float


PATIENT = Patience(4, SECONDS, 120.0)
BRIEF = Patience(2, 10.0, 25.0)  # of a command that shows something to a person


def ask(*command: str, is_record: Callable[[str], object] | None = None, patience: Patience = PATIENT) -> str:
    """Run a SLURM command that may be repeated, and return what it prints; see `run_once`.

    Raises:
        NoAnswerError: no answer within `patience`.
        SlurmError: it is not installed, or fails for another reason.
    """
    end, pauses, tries = time.monotonic() + patience.total, iter(PAUSES[: patience.tries - 1]), 0
    while True:
        tries += 1
        try:
            return run_once(*command, seconds=min(patience.each, max(1.0, end - time.monotonic())), is_record=is_record)
        except NoAnswerError as error:
            pause = next(pauses, math.inf)
            if time.monotonic() + pause >= end:
                raise NoAnswerError(f"{error} (asked {tries} times)") from error
            print(f"note: {error}; asking again in {pause:g} s", file=sys.stderr, flush=True)
        time.sleep(pause)


def run_once(*command: str, seconds: float = SECONDS, is_record: Callable[[str], object] | None = None) -> str:
    """Run a SLURM command and return what it prints, without escape sequences.

    For a question, `is_record` says whether a line is part of an answer. Then exit status 0 is not enough: wrappers
    lose the status of what they wrap. No output is an empty answer, but errors or other text without a record are none.

    Raises:
        NoAnswerError: SLURM says that it cannot be reached, or there is no answer within `seconds`.
        SlurmError: it is not installed, or fails for another reason.
    """
    status, *texts = _run(command, seconds)
    printed, messages = (TERMINAL.sub("", text) for text in texts)
    if status == 0 and (is_record is None or any(is_record(line) for line in printed.splitlines())):
        return printed
    lines = [line.strip() for line in f"{messages}\n{printed}".splitlines() if line.strip()]
    if status == 0 and not any(ERROR.match(line) for line in lines):
        if not printed.strip():
            return ""
        raise SlurmError(f"{command[0]} printed no record, only: {printed.strip()[:MOST_SHOWN]}")
    text = "\n".join([line for line in lines if OWN.match(line)] or lines)[:MOST_SHOWN]
    if UNCONFIGURED.search(text):
        raise SlurmError(f"{command[0]} is installed here and finds no configuration of a cluster; {ELSEWHERE}")
    kind = NoAnswerError if SLOW.search(text) else SlurmError
    raise kind(text or f"{command[0]} failed with exit status {status} and says nothing")


def _run(command: Sequence[str], seconds: float) -> tuple[int, str, str]:
    """Exit status, stdout and stderr. What does not end in time is killed with all that it has started."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(FILTERS)}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            encoding="utf-8", errors="replace", env=environment, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not installed here; {ELSEWHERE}") from error
    except OSError as error:
        raise SlurmError(f"{command[0]} cannot be run here: {error}") from error
    with process:
        try:
            printed, messages = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise NoAnswerError(f"{command[0]} does not answer within {seconds:.0f} s") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, printed, messages


def refusal(options: Sequence[str]) -> str | None:
    """Why `sbatch` would refuse a job with these options, in its own words; None if it would accept it.

    That there is no place for another job now is no refusal of its options.

    Raises:
        NoAnswerError: SLURM does not answer, which is no refusal.
    """
    try:
        ask("sbatch", "--test-only", *options, "--wrap=true")
    except NoAnswerError:
        raise
    except SlurmError as error:
        return None if LIMIT.search(str(error)) else str(error)
    return None


def longest_minutes(partition: str | None) -> float:
    """The longest time limit of a partition (of several, `a,b`), or of the default one; infinite if there is none.

    Many clusters queue a job with a longer limit forever instead of refusing it.
    """
    names = partition.split(",") if partition else None
    printed = ask("sinfo", "--noheader", "--format=%P %l", is_record=str.strip)
    limits = [
        minutes
        for name, minutes in _limits(printed.splitlines())
        if (name.rstrip("*") in names if names else name.endswith("*"))
    ]
    return max(limits, default=math.inf)


def _limits(lines: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Partitions, the default one with `*`, and their time limits in minutes."""
    for line in lines:
        words = line.split()
        minutes = _minutes(words[1]) if len(words) == 2 else None
        if minutes is not None:
            yield words[0], minutes


def _minutes(limit: str) -> float | None:
    """Convert a time limit to minutes; None if the text is none.

    SLURM's forms are `1-02:03:04`, `1-02:03`, `1-02`, `02:03:04`, `03:04`, `30` (minutes), and words for no limit.
    """
    if limit.lower() in ("infinite", "unlimited", "n/a", "none", "not_set"):
        return math.inf
    match = re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,9})(?::(\d{1,2}))?(?::(\d{1,2}))?", limit)
    if match is None:
        return None
    days, *clock = match.groups()
    parts = [float(part) for part in clock if part is not None]
    if days is None and len(parts) < 3:
        parts = [0.0, *parts]  # the first number is minutes
    hours, minutes, seconds = (*parts, 0.0, 0.0)[:3]
    return float(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def max_array_size() -> int:
    """The cluster's `MaxArraySize`, one more than the highest index of an array; SLURM's default if it is missing."""
    for line in ask("scontrol", "show", "config", is_record=str.strip).splitlines():
        match = re.fullmatch(r"\s*MaxArraySize\s*[=:]\s*(\d{1,10})\b.*", line, re.IGNORECASE)
        if match is not None:
            return int(match[1])
    return DEFAULT_MAX_ARRAY


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs or array tasks (`123`, `123_4`); those that have ended are unaffected."""
    if jobs:
        _change("scancel", *jobs)


def throttle(array: str, parallel: int) -> None:
    """Let at most `parallel` tasks of a queued array run at one time."""
    _change("scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={parallel}")


def requeue(job: str) -> None:
    """Put a running job back into the queue under its own id."""
    _change("scontrol", "requeue", job)


def _change(*command: str) -> None:
    """Run a command about jobs; that a job has ended meanwhile is no error."""
    try:
        ask(*command)
    except SlurmError as error:
        errors = [line for line in str(error).splitlines() if OWN.match(line) or ENDED.search(line)]
        if not errors or not all(ENDED.search(line) for line in errors):
            raise
