"""Run SLURM's commands with a time limit; errors carry SLURM's own text."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence

SECONDS = 60
DEFAULT_MAX_ARRAY = 1001  # SLURM's own default


class SlurmError(RuntimeError):
    """A SLURM command failed or did not answer; the text is SLURM's."""


def ask(*command: str) -> str:
    """Run a SLURM command and return what it prints.

    Raises:
        SlurmError: it is not installed, fails, or does not answer within a minute.
    """
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not installed here") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} does not answer within {SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        raise SlurmError((error.stderr or error.stdout).strip() or f"{command[0]} failed") from error
    return done.stdout


def refusal(options: Sequence[str]) -> str | None:
    """Why `sbatch` would refuse a job with these options, in its own words; None if it would accept it."""
    try:
        ask("sbatch", "--test-only", *options, "--wrap=true")
    except SlurmError as error:
        return str(error)
    return None


def longest_minutes(partition: str | None) -> float:
    """The longest time limit of a partition, or of the default one; infinite if there is none.

    Many clusters queue a job with a longer limit forever instead of refusing it.
    """
    for line in ask("sinfo", "--noheader", "--format=%P %l").splitlines():
        name, _, limit = line.partition(" ")
        if name.rstrip("*") == partition or (partition is None and name.endswith("*")):
            return _minutes(limit.strip())
    return math.inf


def _minutes(limit: str) -> float:
    """Convert `1-02:03:04`, `02:03:04`, `03:04` or `infinite` to minutes."""
    days, _, clock = limit.rpartition("-")
    if not clock.replace(":", "").isdigit():
        return math.inf
    hours, minutes, seconds = ([0.0, 0.0] + [float(part) for part in clock.split(":")])[-3:]
    return float(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def max_array_size() -> int:
    """The cluster's `MaxArraySize`: one more than the highest index of a job array."""
    for line in ask("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return int(value)
    return DEFAULT_MAX_ARRAY


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs or array tasks (`123`, `123_4`); those that have ended are unaffected."""
    if jobs:
        ask("scancel", *jobs)


def throttle(array: str, parallel: int) -> None:
    """Let at most `parallel` tasks of a queued array run at one time."""
    ask("scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={parallel}")


def requeue(job: str) -> None:
    """Put a running job back into the queue under its own id."""
    ask("scontrol", "requeue", job)
